"""Which layers see the image and which predict: both keep 8 bits in the published low-bit detectors."""

import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, Pattern, Tuple, Type

from torch import nn

from mmacs.quantization.layers import quantizable_layers
from mmacs.utils.libraries import libraries_of

ROLES = ('input', 'prediction')
_HEAD = re.compile(r'.*heads?')
_BACKBONE = re.compile(r'.*?backbone[^.]*')
_IMAGE_CHANNELS = 3
# Names of what predicts in a head, a layer, or a list or sequence that ends in one: terms of the field here, and by
# library what else its heads have.
_TERMS = re.compile(
    r'(?!pre_)(.*_)?(cls|reg|obj|centerness|iou|logits|kernel|pred|score|out|loc|shape|heat|emb|off|shift|coeff)'
)
_LIBRARY_TERMS: Dict[str, Pattern[str]] = {}
# Modules around a layer, with its name in them: whether a norm or an activation follows it there.
_WRAPPERS: List[Tuple[Type[nn.Module], str, Callable[[Any], bool]]] = []


def register_predictions(library: str, names: str) -> None:
    """Declare names, as one regular expression, that a library's heads have for what predicts."""
    _LIBRARY_TERMS[library] = re.compile(names)


def register_wrapper(kind: Type[nn.Module], child: str, is_followed: Callable[[Any], bool]) -> None:
    """Declare a module around the layer ``child``; ``is_followed`` tells if a norm or activation comes after it."""
    _WRAPPERS.append((kind, child, is_followed))


def find_roles(model: nn.Module) -> Dict[str, str]:
    """Tell the layers that see the image (``input``) and those whose outputs are predictions (``prediction``).

    Decided by structure and name, without tracing. The image is seen by the first layer of all, the first of every
    backbone and every convolution of 3 channels (a stem of several branches has several). Predictions come from the
    last layers of those branches of a head that are named as predicting, where neither a norm nor an activation
    follows. A model without such a head has its last layer predict.

    Args:
        model (nn.Module): The model, in full precision or quantized.

    Returns:
        Dict[str, str]: Role by name, for the layers that have one.
    """
    names, modules = list(quantizable_layers(model)), dict(model.named_modules())
    terms = [_TERMS, *(_LIBRARY_TERMS[library] for library in libraries_of(model) & _LIBRARY_TERMS.keys())]
    roles = {name: 'prediction' for name in names if _predicts(name, names, modules, terms)}
    if names and not roles:
        roles[names[-1]] = 'prediction'
    first: Dict[str, str] = {}  # layer of all and of each backbone, be it one that can be quantized or not
    for name, module in modules.items():
        if getattr(getattr(module, 'weight', None), 'ndim', 0) > 1:
            backbone = _BACKBONE.match(name)
            first.setdefault('', name)
            first.setdefault(backbone[0] if backbone else '', name)
    for name in names:
        if name in first.values() or getattr(modules[name], 'in_channels', None) == _IMAGE_CHANNELS:
            roles[name] = 'input'
    return roles


def _predicts(name: str, names: List[str], modules: Mapping[str, nn.Module], terms: Iterable[Pattern[str]]) -> bool:
    """Returns whether a layer ends a branch of a head that is named as predicting."""
    path = name.split('.')
    while len(path) > 1:
        part = path.pop()
        parent = modules['.'.join(path)]
        if any(
            isinstance(parent, kind) and part == child and is_followed(parent) for kind, child, is_followed in _WRAPPERS
        ):
            return False
        if part.isdigit():
            in_order = isinstance(parent, nn.Sequential) or path[-1] == 'layers'  # a ModuleList's are side by side
            if in_order and name != [other for other in names if other.startswith('.'.join(path) + '.')][-1]:
                return False
        elif part not in ('conv', 'linear', 'layers'):
            return any(map(_HEAD.fullmatch, path)) and any(term.fullmatch(part) for term in terms)
    return False
