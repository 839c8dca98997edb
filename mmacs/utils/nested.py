"""Tensors in nested tuples and lists, as modules return them."""

from typing import Any, Callable, List

from torch import Tensor


def tensors_of(nested: Any) -> List[Tensor]:
    """Returns the tensors in nested tuples and lists, in order."""
    if isinstance(nested, Tensor):
        return [nested]
    if isinstance(nested, (tuple, list)):
        return [tensor for part in nested for tensor in tensors_of(part)]
    return []


def mapped(function: Callable[[Tensor], Any], nested: Any) -> Any:
    """Returns nested tuples and lists with a function applied to each tensor; what else is in them stays."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, (tuple, list)):
        parts = [mapped(function, part) for part in nested]
        if hasattr(nested, '_fields'):  # a named tuple
            return type(nested)(*parts)
        return parts if isinstance(nested, list) else tuple(parts)
    return nested
