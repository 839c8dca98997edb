"""A quantized model in one small file: weights as whole numbers, no config needed, nothing in it executed."""

import copy
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Set, Tuple

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacs.deploy.exportable import require_model
from mmacs.deploy.model_config import build_from_strangers, from_plain, plain_config
from mmacs.deploy.packages import require
from mmacs.deploy.weight_codes import codes_by_table, codes_on_grid, weight_by_table, weight_on_grid
from mmacs.quantization import Specification, quantizers
from mmacs.quantization.layers import QuantizedLayer
from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.checks import is_whole
from mmacs.utils.errors import MmacsError, printable, reason, shortened
from mmacs.utils.files import atomic_path, require_new
from mmacs.utils.json_file import parse
from mmacs.utils.libraries import library_versions
from mmacs.version import __version__

VERSION = 1  # of the format
_PREFIX = 'mmacs.'  # of what a file says of itself
_DIGEST = f'{_PREFIX}digest'
_KINDS = {  # of what it says
    'config': dict,
    'scope': (str, type(None)),
    'recipe': dict,
    'quantizers': dict,
    'weights': dict,
    'numbers': dict,  # integer tensors of a few elements, by the module that has them
    'folded': list,
    'dataset_meta': dict,
}
_GRID, _TABLE, _VALUES = 'grid', 'table', 'values'  # forms of a weight: levels of its quantizer, of a table, float32
_CODES = '#codes'  # after the name of a weight, as the name of its table
_FEW = 16  # elements of an integer tensor that is written as text
_META = ('classes', 'palette')  # of a model's ``dataset_meta``


class _Content(NamedTuple):
    """What a file holds."""

    tensors: Dict[str, Tensor]
    metadata: Dict[str, str]  # JSON values, by keys that begin with ``mmacs.``


def pack(model: nn.Module, file: os.PathLike, force: bool = False) -> Path:
    """Write a quantized model to one file that :func:`load` reads without a config.

    Weights are stored as whole numbers of their bit-width, everything else as it is: steps, BatchNorm, biases, layers
    in full precision. The file (safetensors) says of itself how the model is built: config, recipe, classes, versions.
    What was written is read again and compared before the file gets its name.

    Args:
        model (nn.Module): A model that ``type='mmacs.QuantizedModel'`` built, with its steps, also after
            :func:`mmacs.freeze` and :func:`mmacs.fold_batch_norm`. Its ``dataset_meta``, if it has one, gives the names
            of classes.
        file (os.PathLike): Where to write, such as ``model.mmacs``.
        force (bool): Whether a file that is there is replaced. Defaults to False.

    Returns:
        Path: The file.

    Raises:
        MmacsError: If the file exists, the model is not quantized, has no steps, was built in another way, or would not
            come back as it is.
    """
    safetensors = require('safetensors.torch')
    path = Path(file)
    require_new(path, force)
    require_model(model)
    for key, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32:
            raise MmacsError(f'{key} is {value.dtype}, and a packed model is in float32: pack model.float()')
    model = copy.deepcopy(model).cpu().eval()  # quantizers whose range follows the data change in training
    content = _packed(model)
    metadata = {**content.metadata, _DIGEST: _digest(content)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.save(content.tensors, metadata))
        _require_same(model, _model_of(_read(temporary), str(path)))
    return path


def load(file: os.PathLike) -> nn.Module:
    """Returns the model of a file that :func:`pack` wrote: the simulation with its quantizers, bit for bit.

    The file may be a stranger's: nothing in it is executed or imported, and it makes no constructor read a file or open
    a connection. Types are those that the installed libraries, and modules that you have imported, have registered.

    Args:
        file (os.PathLike): The file.

    Returns:
        nn.Module: The model in eval mode, on the CPU; a ``RetinaNet`` is one of MMDetection's. Its ``dataset_meta`` has
        the names of classes, if the file has them.

    Raises:
        MmacsError: If the file is missing, damaged, of another kind or of a newer version, or can't be built.
    """
    return _model_of(_read(Path(file)), str(file))


def _model_of(content: _Content, file: str) -> nn.Module:
    said = _said(content.metadata, file)
    model, dropped = build_from_strangers(dict(said['config'], recipe=said['recipe']), said['scope'], file)
    if dropped:
        print_log(f'{file}: {", ".join(map(printable, dropped))} is not followed', 'current')
    try:
        _restore(model, content.tensors, said)
    except Exception as error:  # of what torch and quantizers say of values that a stranger may have written
        raise MmacsError(f'{file} does not fit the model that it describes: {reason(error)}') from error
    if said['dataset_meta']:
        model.dataset_meta = from_plain(said['dataset_meta'])
    return model.eval()


# ---------------------------------------------------------------- to a file
@torch.no_grad()
def _packed(model: nn.Module) -> _Content:
    source = getattr(model, 'built_from', None)
    if source is None:
        raise MmacsError(
            f"nothing says what this {type(model).__name__} was built from: build it by type='mmacs.QuantizedModel'"
        )
    layers = dict(_quantized_layers(model))
    if not layers:
        raise MmacsError(f'this {type(model).__name__} has no quantized weight to pack: give it a recipe')
    forms, tensors, numbers, left_out = {}, {}, {}, set()
    for name, layer in layers.items():
        own = _weight_name(name, layer)
        forms[name], weight = _encoded(layer)
        tensors.update({f'{own}{suffix}': part for suffix, part in weight.items()})
        left_out |= _names_of(model, layer)
        if forms[name] != _GRID:  # it comes back frozen
            left_out |= {key for key in model.state_dict() if key.startswith(f'{name}.weight_quantizer.')}
    once = {name for name, _ in model.named_modules()}  # layers may have several names
    for key, value in model.state_dict().items():
        owner, _, own = key.rpartition('.')
        if not isinstance(value, Tensor):
            raise MmacsError(f'{key} of this {type(model).__name__} is a {type(value).__name__}, which no file holds')
        if key in left_out or owner not in once:
            continue
        if value.numel() <= _FEW and not value.is_floating_point() and not value.is_complex():
            numbers.setdefault(owner, {})[own] = value.tolist()
        else:
            tensors[key] = value
    meta = getattr(model, 'dataset_meta', None) or {}
    state = Specification.of(model).state()
    said = {
        'format': VERSION,
        'version': __version__,
        'libraries': library_versions(model),
        'config': plain_config(source.config),
        'scope': source.scope,
        'recipe': state['recipe'],
        'quantizers': {'version': state['version'], 'quantizers': state['quantizers']},
        'weights': forms,
        'numbers': numbers,
        'folded': [name for name, module in model.named_modules() if type(module) is nn.Identity],
        'dataset_meta': {name: plain_config(meta[name], name) for name in _META if meta.get(name) is not None},
    }
    return _Content(
        {key: value.detach().contiguous().clone() for key, value in tensors.items()},
        {f'{_PREFIX}{key}': json.dumps(value, separators=(',', ':')) for key, value in said.items()},
    )


def _quantized_layers(model: nn.Module) -> Iterator[Tuple[str, QuantizedLayer]]:
    """Layers with a quantized weight, by their first name.

    Raises:
        MmacsError: If a quantizer has no step yet, or is disabled.
    """
    for name, module in model.named_modules():
        quantizer = getattr(module, 'weight_quantizer', None) if isinstance(module, QuantizedLayer) else None
        if isinstance(quantizer, Quantizer):
            if not quantizer.enabled:
                raise MmacsError(f'{quantizer.name} is disabled: pack the model outside disabled(model)')
            if not quantizer.is_initialized():
                raise MmacsError(f'{quantizer.name} was never calibrated: calibrate or train the model first')
        if isinstance(quantizer, Quantizer) or getattr(module, 'frozen', False):
            yield name, module


def _encoded(layer: QuantizedLayer) -> Tuple[str, Dict[str, Tensor]]:
    """Returns the form in which a layer's weight is written, and its tensors by what follows the weight's name.

    A layer comes back frozen if it was, or if its quantizer, as DoReFa's, would make something else of what it made.
    """
    quantizer = layer.weight_quantizer
    if not layer.frozen and quantizer.uniform and not quantizer.replaces_weight:
        weight = quantizer(layer.weight_to_quantize())
        codes = codes_on_grid(weight, quantizer.grid(), quantizer.bits)
        if codes is not None and torch.equal(quantizer(weight), weight):
            return _GRID, {_CODES: codes}
    weight = layer.quantized_weight()
    found = codes_by_table(weight)
    return (_VALUES, {'': weight}) if found is None else (_TABLE, {_CODES: found[0], f'#{_TABLE}': found[1]})


def _weight_name(name: str, layer: QuantizedLayer) -> str:
    return f'{name}.{layer.weight_name}'.lstrip('.')


def _names_of(model: nn.Module, layer: QuantizedLayer) -> Set[str]:
    """Returns all names under which a model's state has the weight of a layer."""
    everywhere = model.named_modules(remove_duplicate=False)
    return {_weight_name(name, layer) for name, module in everywhere if module is layer}


def _digest(content: _Content) -> str:
    """Returns a hash of all that a file holds, but for this."""
    digest = hashlib.sha256()
    said = {key: text for key, text in content.metadata.items() if key != _DIGEST}
    digest.update(json.dumps(said, sort_keys=True).encode())
    for key, value in sorted(content.tensors.items()):
        digest.update(f'{key} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _require_same(model: nn.Module, loaded: nn.Module) -> None:
    """Require of a model that was read that it computes what the one that was written computes."""
    for (name, one), (_, other) in zip(_quantized_layers(model), _quantized_layers(loaded)):
        if not torch.equal(one.quantized_weight().detach().cpu(), other.quantized_weight().detach()):
            raise MmacsError(f'{name} would not come back as it is: its quantizer gives other values than its grid')
    state = model.state_dict()
    weights = {name for _, layer in _quantized_layers(model) for name in _names_of(model, layer)}
    for key, value in loaded.state_dict().items():
        if key not in weights and not torch.equal(state[key].cpu(), value):
            raise MmacsError(f'{key} would not come back as it is')


# ---------------------------------------------------------------- from a file
def _read(path: Path) -> _Content:
    """Returns what a file holds, if it is whole, and one of this format."""
    safetensors = require('safetensors.torch')
    if path.is_dir():
        raise MmacsError(f'{path} is a folder, not a packed model')
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MmacsError(f'cannot read {path}: {error.strerror}') from error
    try:
        tensors = safetensors.load(raw)
        metadata = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], 'little')]).get('__metadata__') or {}
    except Exception as error:
        kind = 'a zip archive, such as a checkpoint' if raw.startswith(b'PK') else 'of another kind, or is cut off'
        raise MmacsError(f'{path} is no packed model: it is {kind if raw else "empty"}') from error
    if f'{_PREFIX}format' not in metadata:
        raise MmacsError(f'{path} is no packed model: it holds tensors, and does not say what they are')
    content = _Content(tensors, metadata)
    version = _parsed(content.metadata, 'format', path)
    if not is_whole(version) or version < 1:
        raise MmacsError(f'{path} is damaged: its format is {shortened(version)}')
    if version > VERSION:
        raise MmacsError(f'{path} has the format {version}, and this mmacs reads up to {VERSION}: update mmacs')
    if metadata.get(_DIGEST) != _digest(content):
        raise MmacsError(f'{path} is damaged: it does not hold what was written')
    return content


def _parsed(metadata: Dict[str, str], key: str, path: os.PathLike) -> Any:
    try:
        return parse(metadata[f'{_PREFIX}{key}'])
    except KeyError as error:
        raise MmacsError(f'{path} is damaged: it does not say its {key}') from error
    except ValueError as error:
        raise MmacsError(f'{path} is damaged: its {key} cannot be read ({printable(error, 200)})') from error


def _said(metadata: Dict[str, str], path: os.PathLike) -> Dict[str, Any]:
    """Returns what a file says of itself."""
    said = {key: _parsed(metadata, key, path) for key in _KINDS}
    for key, kind in _KINDS.items():
        if not isinstance(said[key], kind):
            raise MmacsError(f'{path} is damaged: its {key} is {shortened(said[key])}')
    return said


@torch.no_grad()
def _restore(model: nn.Module, tensors: Dict[str, Tensor], said: Dict[str, Any]) -> None:
    """Give a model that was just built the structure and the state of a file."""
    modules = dict(model.named_modules())
    for name in said['folded']:
        if isinstance(modules.get(name), _BatchNorm):
            _replace(model, name, nn.Identity())
    layers = {name: modules[name] for name in said['weights']}
    for name, layer in layers.items():
        if not isinstance(layer, QuantizedLayer):
            raise MmacsError(f'{name} is no quantized layer')
        if said['weights'][name] != _GRID:
            layer.weight_quantizer, layer.frozen = nn.Identity(), True
    _require_quantizers(model, Specification.from_state({**said['quantizers'], 'recipe': said['recipe']}))
    own = model.state_dict()
    of_weights = {
        f'{_weight_name(name, layer)}{suffix}'
        for name, layer in layers.items()
        for suffix in ('', _CODES, f'#{_TABLE}')
    }
    state = {key: value for key, value in tensors.items() if key not in of_weights}
    for owner, numbers in said['numbers'].items():
        for attribute, value in numbers.items():
            key = f'{owner}.{attribute}'.lstrip('.')
            state[key] = torch.tensor(value, dtype=own[key].dtype)
    for key in state.keys() - own.keys():
        owner, _, attribute = key.rpartition('.')
        if attribute == 'bias' and modules[owner].bias is None:  # of a convolution that a BatchNorm was folded into
            modules[owner].bias = nn.Parameter(torch.empty_like(state[key]))
    _require_all(model, state, {_weight_name(*one) for one in layers.items()})
    model.load_state_dict(state, strict=False)
    for name, layer in layers.items():
        _set_weight(layer, _weight_name(name, layer), said['weights'][name], tensors)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition('.')
    setattr(model.get_submodule(parent), own, module)


def _require_quantizers(model: nn.Module, specification: Specification) -> None:
    """Require the quantizers that a file names; bit-widths that changed in training are followed."""
    for name, quantizer in quantizers(model):
        asked = specification.quantizers.get(name)
        if asked is not None and asked.bits != quantizer.bits:
            quantizer.change_bits(asked.bits)
    for name, found in Specification.of(model).quantizers.items():
        if specification.quantizers.get(name) != found:
            raise MmacsError(f'{name} is {found}, where the file has {specification.quantizers.get(name)}')


def _require_all(model: nn.Module, state: Dict[str, Tensor], coded: Set[str]) -> None:
    """Require all tensors of a model in a file, with their shapes and types, but for weights that are coded."""
    own = model.state_dict(keep_vars=True)
    for key, value in state.items():
        if key not in own:
            raise MmacsError(f'the model has no {key}')
        if own[key].shape != value.shape or own[key].dtype != value.dtype:
            raise MmacsError(
                f'{key} is {value.dtype} of shape {tuple(value.shape)}, not {own[key].dtype} of {tuple(own[key].shape)}'
            )
    there = {id(own[key]) for key in (*state, *(key for key in coded if key in own))}  # some have several names
    missing = next((key for key, value in own.items() if id(value) not in there), None)
    if missing is not None:
        raise MmacsError(f'it has no {missing}')


def _set_weight(layer: QuantizedLayer, name: str, form: str, tensors: Dict[str, Tensor]) -> None:
    """Give a layer the weight that a file has in one of three forms."""
    original = layer.original_weight()
    if form == _VALUES:
        weight = tensors[name]
    elif form == _TABLE:
        weight = weight_by_table(tensors[f'{name}{_CODES}'], tensors[f'{name}#{_TABLE}'], original)
    else:
        quantizer = layer.weight_quantizer
        like = layer.weight_to_quantize()
        weight = layer.restore_layout(
            weight_on_grid(tensors[f'{name}{_CODES}'], quantizer.grid(), quantizer.bits, like)
        )
    if weight.shape != original.shape or weight.dtype != original.dtype:
        raise MmacsError(f'{name} is {weight.dtype} of shape {tuple(weight.shape)}, not {tuple(original.shape)}')
    learns = original.requires_grad and not layer.frozen
    setattr(layer, layer.weight_name, nn.Parameter(weight.contiguous(), requires_grad=learns))
