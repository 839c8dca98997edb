"""The size that MMDetection's ``BatchSyncRandomResize`` has drawn for coming batches, which its state dict lacks."""

from typing import Dict, List

from torch import nn


def batch_sizes(model: nn.Module) -> Dict[str, List[int]]:
    """Returns the sizes (height, width) that a model resizes batches to, by the name of the module that does."""
    found = {name: module for name, module in model.named_modules() if _resizes_at_random(module)}
    return {name: list(module._input_size) for name, module in found.items() if module._input_size is not None}


def use_batch_sizes(model: nn.Module, sizes: Dict[str, List[int]]) -> None:
    """Has a model resize batches as one that is gone on with; what it has not is left out.

    Args:
        model (nn.Module): The model.
        sizes (Dict[str, List[int]]): From :func:`batch_sizes`.
    """
    for name, module in model.named_modules():
        if name in sizes and _resizes_at_random(module):
            height, width = sizes[name]
            module._input_size = (height, width)


def _resizes_at_random(module: nn.Module) -> bool:
    return type(module).__name__ == 'BatchSyncRandomResize'
