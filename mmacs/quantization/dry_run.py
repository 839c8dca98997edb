"""One forward on made-up images, to see what a model does: on a copy, so that it leaves no trace."""

import copy
from typing import Any, Callable, List, Optional, TypeVar

import torch
from torch import Tensor, nn

from mmacs.quantization.sharing import mark_per_level_norms
from mmacs.utils.errors import MmacsError, reason
from mmacs.utils.libraries import load_adapters
from mmacs.utils.random_state import kept_random_state

Record = TypeVar('Record')
Run = Callable[[Tensor], Any]

_SIZES = (64, 224)  # pixels: a small one, and that of most models that take images of one size alone
_RUNS: List[Callable[[nn.Module], Optional[Run]]] = []


def register_dry_run(find: Callable[[nn.Module], Optional[Run]]) -> Callable[[nn.Module], Optional[Run]]:
    """Declare what finds how a library's model runs its layers on images alone; it gives None for other models."""
    _RUNS.append(find)
    return find


@torch.no_grad()
def dry_run(model: nn.Module, prepare: Callable[[nn.Module], Record]) -> Record:
    """Run a copy of a model in eval mode on two black images.

    The copy has the model's parameters themselves, buffers of its own and none of the hooks. Random states stay as they
    are.

    Args:
        model (nn.Module): Any model, which stays as it is.
        prepare (Callable): Gets the copy before it runs, and returns what is going to hold the record.

    Returns:
        Any: What ``prepare`` returned.

    Raises:
        MmacsError: If the model can't be run so.
    """
    load_adapters(model)
    failure = None
    with kept_random_state():
        for size in _SIZES:
            bare = _without_hooks(model)
            record = prepare(bare)
            run = next((run for run in (find(bare) for find in _RUNS) if run is not None), bare)
            try:
                run(_black_images(bare, size))
            except Exception as error:  # of any model's own code
                failure = failure or error
            else:
                return record
    raise MmacsError(
        f"sharing='tensor' runs the model once on made-up images to see which layers read the same tensor, which this "
        f"{type(model).__name__} can't ({reason(failure)}): leave sharing out of the recipe"
    ) from failure


def _without_hooks(model: nn.Module) -> nn.Module:
    """Returns a copy in eval mode with the same parameters, and no hooks but those that tell forwards apart."""
    bare = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()}).eval()
    for module in bare.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    mark_per_level_norms(bare)
    return bare


def _black_images(model: nn.Module, size: int) -> Tensor:
    """Returns what a model takes: preprocessed images, or the rows that its first layer reads."""
    first = next(module for module in model.modules() if {'in_channels', 'in_features'} & vars(module).keys())
    if not hasattr(first, 'in_channels'):
        return first.weight.new_zeros(2, first.in_features)
    channels, preprocessor = first.in_channels, getattr(model, 'data_preprocessor', None)
    if preprocessor is not None and channels != 1:  # the first layer may read a rearranged image
        channels = getattr(preprocessor, 'mean', torch.empty(3)).numel()
    return next(model.parameters()).new_zeros(2, channels, size, size)
