"""The thresholds of MMDetection's Dynamic R-CNN, and what they are computed from, which its state dict lacks."""

from typing import Any, Dict, Iterator, Tuple

from torch import nn

from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError

_HISTORIES = ('iou_history', 'beta_history')  # of the iterations since thresholds last changed
_OF_ASSIGNER = ('pos_iou_thr', 'neg_iou_thr', 'min_pos_iou')

Thresholds = Dict[str, Dict[str, Any]]


def dynamic_thresholds(model: nn.Module) -> Thresholds:
    """Returns histories and thresholds as plain values, by the name of the RoI head; empty where there is none."""
    found = {}
    for name, head in _dynamic_heads(model):
        histories = {key: [float(value) for value in getattr(head, key)] for key in _HISTORIES}
        of_assigner = {key: _plain(getattr(head.bbox_assigner, key)) for key in _OF_ASSIGNER}
        found[name] = {**histories, **of_assigner, 'beta': float(head.bbox_head.loss_bbox.beta)}
    return found


def use_dynamic_thresholds(model: nn.Module, thresholds: Thresholds) -> None:
    """Has a model go on from thresholds of another; what it has not is left out.

    Args:
        model (nn.Module): The model.
        thresholds (Dict[str, Dict[str, Any]]): From :func:`dynamic_thresholds`.

    Raises:
        MmacsError: If they are none.
    """
    if not isinstance(thresholds, dict) or not all(map(_are_sound, thresholds.values())):
        raise MmacsError('cannot resume: the thresholds of Dynamic R-CNN in the checkpoint are damaged')
    for name, head in _dynamic_heads(model):
        if name in thresholds:
            values = thresholds[name]
            for key in _HISTORIES:
                setattr(head, key, list(values[key]))
            for key in _OF_ASSIGNER:
                setattr(head.bbox_assigner, key, values[key])
            head.bbox_head.loss_bbox.beta = values['beta']


def _dynamic_heads(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if any(kind.__name__ == 'DynamicRoIHead' for kind in type(module).__mro__):
            yield name, module


def _plain(threshold: Any) -> Any:
    return tuple(map(float, threshold)) if isinstance(threshold, (list, tuple)) else float(threshold)


def _are_sound(values: Any) -> bool:
    if not isinstance(values, dict) or values.keys() != {*_HISTORIES, *_OF_ASSIGNER, 'beta'}:
        return False
    numbers = [value for key in _HISTORIES if isinstance(values[key], (list, tuple)) for value in values[key]]
    pair = values['neg_iou_thr']
    numbers += [values['pos_iou_thr'], values['min_pos_iou'], *(pair if isinstance(pair, (list, tuple)) else [pair])]
    histories = all(isinstance(values[key], (list, tuple)) for key in _HISTORIES)
    return histories and all(map(is_number, numbers)) and is_number(values['beta']) and values['beta'] > 0
