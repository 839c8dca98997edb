"""Label noise by config: wrong labels and boxes at a known rate, with a record of what was right before.

The noise of an image depends on the seed and on the image's place in the data set alone, not on the number of
processes or workers, nor on which images ``indices`` takes. Per object all random numbers are drawn whatever the rates
are, so raising one rate adds wrong annotations to those that a lower rate gives, and leaves the other kinds alone.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from mmengine.registry import DATASETS as ALL_DATASETS

from mmacs.registry import DATASETS
from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError, unknown_name

_SETTINGS = ('symmetric', 'asymmetric', 'mapping', 'drop_boxes', 'jitter_boxes', 'jitter')


@dataclass(frozen=True)
class Noise:
    """How annotations are made wrong; rates are probabilities in [0, 1].

    Attributes:
        targets (np.ndarray): The class that each class is mistaken for under asymmetric noise, int64, shape (K,); a
            class that is its own target is not mistaken.
        symmetric (float): Rate at which a label becomes any other class, each equally likely.
        asymmetric (float): Rate at which a label becomes its target.
        drop_boxes (float): Rate at which an object vanishes.
        jitter_boxes (float): Rate at which a box moves.
        jitter (float): A box that moves is shifted and scaled by up to this share of its width and height.
    """

    targets: np.ndarray
    symmetric: float = 0.0
    asymmetric: float = 0.0
    drop_boxes: float = 0.0
    jitter_boxes: float = 0.0
    jitter: float = 0.3


def parse_noise(settings: Mapping[str, Any], classes: Sequence[str]) -> Noise:
    """Build the noise that a config describes.

    Args:
        settings (Mapping[str, Any]): Fields of :class:`Noise` but ``targets``, and ``mapping``, which sets these:
            classes, by name or index, to the classes that they are mistaken for; those not named are not mistaken. By
            default each class is mistaken for the next, and the last for the first.
        classes (Sequence[str]): Names of the K classes.

    Raises:
        MmacsError: If there is no such setting, a value is out of range, or labels have no other class to take.
    """
    if not isinstance(settings, Mapping):
        raise MmacsError(f'noise must be a dict of settings, such as dict(symmetric=0.2), got {settings!r}')
    for name, value in settings.items():
        if name not in _SETTINGS:
            raise unknown_name('setting of label noise', name, _SETTINGS)
        if name != 'mapping' and not (is_number(value) and 0 <= value <= 1):
            raise MmacsError(f'{name} of label noise must be a number from 0 to 1, got {value!r}')
    settings = dict(settings)
    noise = Noise(targets=_targets(settings.pop('mapping', None), classes), **settings)
    wrong_labels = noise.symmetric + noise.asymmetric
    if wrong_labels > 1:
        raise MmacsError(f'symmetric and asymmetric of label noise must add up to at most 1, not to {wrong_labels}')
    if wrong_labels and len(classes) < 2:
        raise MmacsError(f'wrong labels need at least 2 classes, this data set names {len(classes)}')
    return noise


def _targets(mapping: Optional[Mapping[Union[str, int], Union[str, int]]], classes: Sequence[str]) -> np.ndarray:
    targets = np.arange(len(classes))
    if mapping is None:
        return np.roll(targets, -1)
    if not isinstance(mapping, Mapping):
        raise MmacsError(f'mapping of label noise must be a dict from class to class, got {mapping!r}')
    for source, target in mapping.items():
        targets[_class_index(source, classes)] = _class_index(target, classes)
    return targets


def _class_index(name: Union[str, int], classes: Sequence[str]) -> int:
    if name in classes:
        return list(classes).index(name)
    if type(name) is int and 0 <= name < len(classes):
        return name
    raise unknown_name('class in the mapping of label noise', name, classes)


def corrupt(info: Dict[str, Any], rng: np.random.Generator, noise: Noise) -> Dict[str, Any]:
    """Make the annotations of one image wrong.

    Objects to be ignored, such as crowds, stay as they are, and so do the masks of boxes that move.

    Args:
        info (Dict[str, Any]): What the data set knows about the image: ``gt_label``, the index of its class, or
            ``instances``, each with ``bbox`` [x1, y1, x2, y2] in pixels and ``bbox_label``; not changed.
        rng (np.random.Generator): The source of randomness.
        noise (Noise): How.

    Returns:
        Dict[str, Any]: The same with noise, and ``noise``: a list of all that is wrong, empty if nothing is. Each entry
        has ``kind`` and what ``was`` right: ``'label'``, its class; ``'box'``, its box; ``'dropped'``, the whole
        instance. Of detection, it also has ``index``, the place in ``instances`` of the wrong one, or the place that
        the dropped one had.

    Raises:
        MmacsError: If the image has neither objects nor one class, or no boxes that could be dropped or moved.
    """
    if 'noise' in info:
        raise MmacsError('these labels are noisy already: give one NoisyLabels all settings, not one inside another')
    if 'instances' in info:
        return _corrupt_instances(info, rng, noise)
    if np.size(info.get('gt_label', ())) != 1:
        raise MmacsError('label noise needs a data set whose images have instances, or one gt_label each')
    if noise.drop_boxes or noise.jitter_boxes:
        raise MmacsError('drop_boxes and jitter_boxes of label noise need a data set with boxes')
    was = int(np.asarray(info['gt_label']).item())
    label = wrong_label(was, rng.random(2), noise)
    if label == was:
        return {**info, 'noise': []}
    return {**info, 'gt_label': label, 'noise': [{'kind': 'label', 'was': was}]}


def _corrupt_instances(info: Dict[str, Any], rng: np.random.Generator, noise: Noise) -> Dict[str, Any]:
    instances: List[Dict[str, Any]] = []
    records: List[Dict[str, Any]] = []
    for place, (instance, draws) in enumerate(zip(info['instances'], rng.random((len(info['instances']), 8)))):
        if instance.get('ignore_flag'):
            instances.append(instance)
            continue
        if draws[0] < noise.drop_boxes:
            records.append({'kind': 'dropped', 'index': place, 'was': instance})
            continue
        was, box = instance['bbox_label'], list(instance['bbox'])
        label, moved = wrong_label(was, draws[1:3], noise), box
        if draws[3] < noise.jitter_boxes:
            moved = moved_box(box, draws[4:], noise.jitter, info['width'], info['height'])
        if label != was:
            records.append({'kind': 'label', 'index': len(instances), 'was': was})
        if moved != box:
            records.append({'kind': 'box', 'index': len(instances), 'was': box})
        instances.append({**instance, 'bbox': moved, 'bbox_label': label})
    return {**info, 'instances': instances, 'noise': records}


def wrong_label(label: int, draws: np.ndarray, noise: Noise) -> int:
    """Returns a label after noise.

    Args:
        label (int): The class, from 0 to K - 1.
        draws (np.ndarray): Uniform in [0, 1), shape (2,): whether to change it, and to what.
        noise (Noise): How.

    Returns:
        int: A class, the same with probability 1 - symmetric - asymmetric.
    """
    changes, other = draws
    if changes < noise.symmetric:
        return (label + 1 + int(other * (len(noise.targets) - 1))) % len(noise.targets)
    if changes < noise.symmetric + noise.asymmetric:
        return int(noise.targets[label])
    return label


def moved_box(box: Sequence[float], draws: np.ndarray, jitter: float, width: int, height: int) -> List[float]:
    """Shift and scale a box, and keep it inside the image and at least 1 pixel wide and high.

    Args:
        box (Sequence[float]): x1, y1, x2, y2 in pixels.
        draws (np.ndarray): Uniform in [0, 1), shape (4,): for the shift along x and y, for the scale along x and y.
        jitter (float): The greatest shift and change of size, as a share of the box's width and height, in [0, 1].
        width (int): Width of the image in pixels.
        height (int): Its height.

    Returns:
        List[float]: The box elsewhere.
    """
    low, high = np.array(box, dtype=np.float64).reshape(2, 2)
    shift, growth = jitter * (2 * draws.reshape(2, 2) - 1)
    centre = (low + high) / 2 + shift * (high - low)
    half = (high - low) * (1 + growth) / 2
    image = np.array([width, height])
    low = np.clip(centre - half, 0, image - 1)
    return [*low.tolist(), *np.clip(centre + half, low + 1, image).tolist()]


@DATASETS.register_module('NoisyLabels')
def noisy_labels(dataset: Dict[str, Any], noise: Dict[str, Any], seed: int = 0) -> BaseDataset:
    """Build a data set of MMDetection or MMPreTrain and make its annotations wrong at known rates.

    What is built is the data set itself, of its own class, so pipelines, samplers, wrappers and metrics are those that
    it always has. In a config that inherits another::

        train_dataloader = dict(
            dataset=dict(
                _delete_=True,
                type='mmacs.NoisyLabels',
                dataset=_base_.train_dataloader.dataset,
                noise=dict(symmetric=0.2),
            )
        )

    The infos that ``get_data_info`` gives have ``noise``, the list of what is wrong (see :func:`corrupt`). Images are
    filtered before there is noise, so one that loses all its objects stays. Wrappers such as RepeatDataset go around
    NoisyLabels.

    Args:
        dataset (Dict[str, Any]): Config of a data set that inherits MMEngine's BaseDataset.
        noise (Dict[str, Any]): See :func:`parse_noise`.
        seed (int): At least 0.

    Returns:
        BaseDataset: The data set with noise, fully initialized.

    Raises:
        MmacsError: If the noise is not understood, or the data set is a wrapper or has neither objects nor classes.
    """
    require_whole('seed of label noise', seed, least=0)
    if not isinstance(dataset, Mapping):
        raise MmacsError(f'the dataset of NoisyLabels must be the config of one, got {dataset!r}')
    config = dict(dataset)
    indices = config.pop('indices', None)  # taken below, so that an image has the same noise in any subset
    built = ALL_DATASETS.build(config)
    if not isinstance(built, BaseDataset):
        wrapper = type(built).__name__
        raise MmacsError(f'NoisyLabels goes around a data set, not around a wrapper: put it into {wrapper}')
    built.full_init()
    settings = parse_noise(noise, built.metainfo.get('classes', ()))
    # What is stored; subclasses may add to it in their own get_data_info.
    infos = (BaseDataset.get_data_info(built, index) for index in range(len(built)))
    noisy = [corrupt(info, np.random.default_rng([seed, index]), settings) for index, info in enumerate(infos)]
    built.data_list = noisy
    if indices is not None:
        built.data_list = built._get_unserialized_subset(indices)
    print_log(f'Label noise {dict(noise)}, seed {seed}: {_summary(built.data_list)}.', logger='current')
    if built.serialize_data:
        built.data_bytes, built.data_address = built._serialize_data()
    return built


def _summary(infos: Sequence[Dict[str, Any]]) -> str:
    kinds = Counter(record['kind'] for info in infos for record in info['noise'])
    changed = sum(bool(info['noise']) for info in infos)
    text = f'{changed} of {len(infos)} images changed, {kinds["label"]} labels wrong'
    if 'instances' not in infos[0]:
        return text
    emptied = sum(any(r['kind'] == 'dropped' for r in info['noise']) and not info['instances'] for info in infos)
    return f'{text}, {kinds["box"]} boxes moved, {kinds["dropped"]} objects dropped, {emptied} images left without any'
