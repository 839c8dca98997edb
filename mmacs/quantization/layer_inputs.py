"""The tensors that layers read: whoever measures activations gets each as it comes."""

from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Type

from torch import Tensor, nn

from mmacs.quantization.layers import QuantizedLayer

See = Callable[[str, Tensor], Optional[Tensor]]


def watch_inputs(model: nn.Module, layers: Mapping[str, Type[QuantizedLayer]], see: See) -> Callable[[], None]:
    """Have a function see each floating tensor that layers round, or would, in any forward from now on.

    Args:
        model (nn.Module): A model, converted or not.
        layers (Mapping[str, Type[QuantizedLayer]]): The layers, see
            :func:`~mmacs.quantization.layers.base.quantizable_layers`.
        see (Callable): Gets the layer's name and the input, before it is rounded; a tensor that it returns takes the
            input's place.

    Returns:
        Callable: Ends it.
    """
    handles = [
        model.get_submodule(name).register_forward_pre_hook(_seeing(name, len(kind.inputs), see), with_kwargs=True)
        for name, kind in layers.items()
    ]

    def end() -> None:
        for handle in handles:
            handle.remove()

    return end


def _seeing(name: str, count: int, see: See) -> Callable[..., Tuple[Tuple[Any, ...], Dict[str, Any]]]:
    """Makes a hook of a layer whose first ``count`` tensors are its inputs."""

    def look(layer: nn.Module, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
        left = count

        def shown(value: Any) -> Any:
            nonlocal left
            if left == 0 or not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            left -= 1
            found = see(name, value)
            return value if found is None else found

        return tuple(map(shown, args)), {key: shown(value) for key, value in kwargs.items()}

    return look
