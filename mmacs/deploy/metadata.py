"""What an exported file says of itself: written with it, and read by whoever runs it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional

from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

PREFIX = 'mmacs.'
DIGEST = f'{PREFIX}digest'
# MMCV's names of the ways to interpolate, and those of the libraries that do it
INTERPOLATIONS = {
    'cv2': {
        'nearest': 'INTER_NEAREST',
        'bilinear': 'INTER_LINEAR',
        'bicubic': 'INTER_CUBIC',
        'area': 'INTER_AREA',
        'lanczos': 'INTER_LANCZOS4',
    },
    'pillow': {name: name.upper() for name in ('nearest', 'bilinear', 'bicubic', 'box', 'lanczos', 'hamming')},
}
EDGES = ('short', 'long', 'width', 'height')
TASKS = ('detection', 'classification', 'raw')


@dataclass
class Preprocessing:
    """What is done to a picture before it is the input; normalisation is part of the graph.

    Attributes:
        channel_order (str): ``'BGR'`` or ``'RGB'``: that of the input's channels.
        mean (List[float]): What the graph subtracts, per channel of the input, for information.
        std (List[float]): What it divides by.
        resize (Dict, optional): ``scale`` [width, height] with ``keep_ratio``; or ``edge`` (``'short'``, ``'long'``,
            ``'width'`` or ``'height'``) with ``scale``, one number. ``backend`` is ``'cv2'`` (default) or ``'pillow'``,
            ``interpolation`` MMCV's name, bilinear by default; ``centre`` the share of the shorter edge that a square
            in the centre has, if only that is resized. None if the picture stays as it is.
        crop (List[int], optional): Height and width of what is cut out of the centre.
        pad (Dict): ``value`` in raw pixels, per channel of the input, and ``divisor``, ``size`` [height, width] or
            ``square``; at the right and lower edges.
        unknown (List[str]): Transforms that change pixels besides, which are not told here.
    """

    channel_order: str = 'BGR'
    mean: List[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    std: List[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    resize: Optional[Dict[str, Any]] = None
    crop: Optional[List[int]] = None
    pad: Dict[str, Any] = field(default_factory=lambda: {'divisor': 1, 'value': [0.0, 0.0, 0.0]})
    unknown: List[str] = field(default_factory=list)


@dataclass
class Metadata:
    """What a file says of itself.

    Attributes:
        version (str): Of mmacs.
        task (str): ``'detection'``, ``'classification'`` or ``'raw'``.
        classes (List[str]): Names, by label.
        recipe (Dict): The model's recipe.
        preprocessing (Preprocessing): What is done to a picture.
        config (str): Name of the config.
        input_shape (List): Batch, channels, height and width; None where any will do.
        format (str): ``'qcdq'`` or ``'qonnx'``.
        target (str): ``'cpu'`` or ``'tensorrt'``.
    """

    version: str = __version__
    task: str = 'raw'
    classes: List[str] = field(default_factory=list)
    recipe: Dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    config: str = ''
    input_shape: List[Optional[int]] = field(default_factory=lambda: [None, 3, None, None])
    format: str = 'qcdq'
    target: str = 'cpu'


def write_metadata(model: 'ModelProto', metadata: Metadata) -> None:
    """Put the metadata and the digest of the graph into a model, in the place of others of ours.

    Raises:
        ValueError: If :func:`read_metadata` would refuse them.
    """
    _check(metadata)
    others = [(one.key, one.value) for one in model.metadata_props if not one.key.startswith(PREFIX)]
    del model.metadata_props[:]
    for key, value in others:
        model.metadata_props.add(key=key, value=value)
    for key, value in asdict(metadata).items():
        model.metadata_props.add(key=PREFIX + key, value=json.dumps(value))
    model.metadata_props.add(key=DIGEST, value=json.dumps(digest_of(model)))


def digest_of(model: 'ModelProto') -> str:
    """Returns a hash of a model without its metadata."""
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def read_metadata(properties: Mapping[str, str], file: object) -> Metadata:
    """Returns what a file says of itself.

    Args:
        properties (Mapping[str, str]): Its metadata as a runtime gives them.
        file (object): Its path, for messages.

    Raises:
        MmacsError: If it says nothing, or something that makes no sense.
    """
    own = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    if not own:
        raise MmacsError(f'{file} was not written by mmacs: it says nothing of classes and preprocessing')
    try:
        values = {key: json.loads(text) for key, text in own.items()}
        preprocessing = _known(Preprocessing, values.pop('preprocessing', {}))
        metadata = Metadata(preprocessing=Preprocessing(**preprocessing), **_known(Metadata, values))
        _check(metadata)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise MmacsError(f'the metadata of {file} are damaged: {str(error)[:200]}') from error
    return metadata


def require_untouched(model: 'ModelProto', file: object) -> None:
    """Compare a graph with the digest that it was written with.

    Raises:
        MmacsError: If it was changed since, or lost its digest. A file that mmacs did not write has none.
    """
    own = {one.key: one.value for one in model.metadata_props if one.key.startswith(PREFIX)}
    if own and own.get(DIGEST) != json.dumps(digest_of(model)):
        raise MmacsError(f'{file} was changed after mmacs wrote it: its graph is not known to be that which was proven')


def _known(kind: type, values: Mapping[str, Any]) -> Dict[str, Any]:
    """Values that this version knows; later ones may write more."""
    if not isinstance(values, Mapping):
        raise TypeError(f'{str(values)[:80]!r} is no dict')
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


def _check(metadata: Metadata) -> None:
    """Require what is used to be what it should be; the file may come from anywhere."""
    if metadata.task not in TASKS:
        raise ValueError(f'task is {metadata.task!r}')
    if not isinstance(metadata.classes, list) or not all(isinstance(one, str) for one in metadata.classes):
        raise ValueError('classes are no names')
    require_sound(metadata.preprocessing)


def require_sound(how: Preprocessing) -> None:
    """Require values that pictures can be prepared by.

    Raises:
        KeyError, TypeError, ValueError: If one is of another kind, or out of all proportion.
    """
    if how.channel_order not in ('BGR', 'RGB'):
        raise ValueError(f'channel_order is {how.channel_order!r}')
    for numbers in (how.mean, how.std, how.pad.get('value', [0, 0, 0])):
        if len(numbers) != 3 or not all(is_number(one) for one in numbers):
            raise ValueError(f'{numbers!r} is not a number per channel')
    resize = how.resize or {'scale': [1, 1]}
    sizes = [how.pad.get('divisor', 1), *([resize['scale']] if 'edge' in resize else ())]
    for pair in (how.pad.get('size'), how.crop, None if 'edge' in resize else resize.get('scale', ())):
        if pair is not None and len(pair) != 2:
            raise ValueError(f'{pair!r} is not two sizes')
        sizes += pair or ()
    if 'edge' in resize and resize['edge'] not in EDGES:
        raise ValueError(f'edge is {resize["edge"]!r}')
    way = resize.get('backend', 'cv2'), resize.get('interpolation', 'bilinear')
    if way[1] not in INTERPOLATIONS[way[0]]:
        raise ValueError(f'{way[0]} does not interpolate by {way[1]!r}')
    centre = resize.get('centre', 1)
    if not is_number(centre) or not 0 < centre <= 1:
        raise ValueError(f'{centre!r} is no share of an edge')
    if not isinstance(how.unknown, list) or not all(isinstance(one, str) for one in how.unknown):
        raise ValueError('unknown transforms have no names')
    for size in sizes:
        if type(size) is not int or not 0 < size <= 100_000:
            raise ValueError(f'{size!r} is no size in pixels')
