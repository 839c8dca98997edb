"""The size that MMDetection's ``BatchSyncRandomResize`` has drawn for coming batches, which its state dict lacks."""

from typing import Any, Dict, List

from torch import nn

from mmacs.utils.checks import is_whole
from mmacs.utils.errors import MmacsError


def batch_sizes(model: nn.Module) -> Dict[str, List[int]]:
    """Returns the sizes (height, width) that a model resizes batches to, by the name of the module that does."""
    found = {name: module for name, module in model.named_modules() if _resizes_at_random(module)}
    return {name: list(module._input_size) for name, module in found.items() if module._input_size is not None}


def use_batch_sizes(model: nn.Module, sizes: Dict[str, List[int]]) -> None:
    """Has a model resize batches as one that is gone on with; what it has not is left out.

    Args:
        model (nn.Module): The model.
        sizes (Dict[str, List[int]]): From :func:`batch_sizes`.

    Raises:
        MmacsError: If they are none.
    """
    if not isinstance(sizes, dict) or not all(map(_is_size, sizes.values())):
        raise MmacsError('cannot resume: the sizes of batches in the checkpoint are no heights and widths')
    for name, module in model.named_modules():
        if name in sizes and _resizes_at_random(module):
            module._input_size = tuple(sizes[name])


def _is_size(size: Any) -> bool:
    return isinstance(size, (list, tuple)) and len(size) == 2 and all(is_whole(side) and side > 0 for side in size)


def _resizes_at_random(module: nn.Module) -> bool:
    return type(module).__name__ == 'BatchSyncRandomResize'
