"""Public CIFAR ResNet checkpoints in MMPreTrain's terms."""

from typing import Any, Dict, List, Mapping, Optional

import torch
from torch import Tensor

from mmacs.models.cifar_resnet import CIFARResNet
from mmacs.utils.errors import MmacsError


def convert_cifar_checkpoint(checkpoint: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Rename what a checkpoint in the manner of ``akamaster/pytorch_resnet_cifar10`` holds.

    Args:
        checkpoint (Mapping[str, Any]): The state dict, or a dict with it under ``'state_dict'``. Keys are ``conv1.*``,
            ``bn1.*``, ``layer{1,2,3}.<block>.*`` and ``linear.*``, with or without ``module.`` before them.

    Returns:
        Dict[str, Tensor]: State dict of an ``ImageClassifier`` with a :class:`CIFARResNet` and a ``LinearClsHead``:
        ``backbone.*`` and ``head.fc.*``. The batch counters that old releases of torch did not save are 0.

    Raises:
        MmacsError: If it is not the checkpoint of a CIFARResNet, whole and with nothing else in it.
    """
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise MmacsError('the checkpoint holds no state dict')
    state = {str(key).removeprefix('module.'): value for key, value in state.items()}
    depth = _depth(state)
    expected = _expected(depth, state)
    for key in expected:
        if key.endswith('.num_batches_tracked'):
            state.setdefault(key, torch.tensor(0))

    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    misshapen = [key for key, shape in expected.items() if key in state and _shape(state[key]) != shape]
    faults = [
        _list('misses', missing),
        _list('has the unknown', unknown),
        _list('has the wrong shape in', misshapen),
    ]
    if any(faults):
        raise MmacsError(f'the checkpoint is not one of a CIFARResNet-{depth}: it {" and ".join(filter(None, faults))}')
    return {_rename(key): state[key] for key in expected}


def _depth(state: Mapping[str, Any]) -> int:
    blocks = sum(key.startswith('layer1.') and key.endswith('.conv1.weight') for key in state)
    depth = 6 * blocks + 2
    if depth not in CIFARResNet.depths:
        raise MmacsError(f'the checkpoint is not one of a CIFARResNet: layer1 has {blocks} blocks with a conv1.weight')
    return depth


def _expected(depth: int, state: Mapping[str, Any]) -> Dict[str, tuple]:
    """Returns the shape of every tensor by its public name; the number of classes is free."""
    with torch.device('meta'):
        backbone = CIFARResNet(depth)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    classes = (_shape(state.get('linear.bias')) or (0,))[0]
    return {**shapes, 'linear.weight': (classes, CIFARResNet.stage_channels[-1]), 'linear.bias': (classes,)}


def _shape(value: object) -> Optional[tuple]:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _rename(key: str) -> str:
    return key.replace('linear.', 'head.fc.') if key.startswith('linear.') else f'backbone.{key}'


def _list(fault: str, keys: List[str], at_most: int = 3) -> str:
    more = f' and {len(keys) - at_most} more' if len(keys) > at_most else ''
    return f'{fault} {", ".join(keys[:at_most])}{more}' if keys else ''
