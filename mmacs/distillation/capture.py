"""Recording what chosen modules of a model compute, and choosing them by name."""

from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, List, Sequence, Tuple, Union

from torch import nn
from torch.utils.hooks import RemovableHandle

from mmacs.adapters.base import Call, Calls
from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.errors import MmacsError


class Recorder:
    """Records the calls of modules of one model between :meth:`start` and :meth:`stop`.

    Outside, no hook is on the model, so that copies of it have none either.

    Args:
        model (nn.Module): The model.
        names (Sequence[str]): Names of its modules.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._modules = {name: model.get_submodule(name) for name in names}
        self._handles: List[RemovableHandle] = []
        self.calls: Calls = {}

    def start(self) -> None:
        """Forget what was recorded and record from now on.

        An output is kept as the tensor that it is: what comes next and works in place on it, as a ReLU may, shows.
        """
        self.stop()
        self.calls = {name: [] for name in self._modules}
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_hook(partial(_record, self.calls[name])))

    def stop(self) -> Calls:
        """Record no more; give what was recorded, by name in the order of calls, and let go of it."""
        for handle in self._handles:
            handle.remove()
        self._handles, calls, self.calls = [], self.calls, {}
        return calls


def _record(calls: List[Call], module: nn.Module, args: Tuple[Any, ...], output: Any) -> None:
    calls.append(Call(args, output))


def match_layers(model: nn.Module, patterns: Union[str, Sequence[str]]) -> List[str]:
    """Returns the names of a model's modules that patterns select, in the model's order.

    A ``*`` stands for anything but a dot: ``'backbone.layer*'`` is the four stages of a ResNet, not what is inside
    them. Lists of modules, which are never called, and quantizers are left out.

    Args:
        model (nn.Module): The model.
        patterns (str or Sequence[str]): One or several patterns.

    Returns:
        List[str]: The names, each once.

    Raises:
        MmacsError: If a pattern selects nothing; the message has near names.
    """
    names = [
        name
        for name, module in model.named_modules()
        if name and not isinstance(module, (nn.ModuleList, nn.ModuleDict, Quantizer))
    ]
    chosen = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matched = {name for name in names if _matches(name, pattern)}
        if not matched:
            near = get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise MmacsError(f'layers: {pattern!r} matches no layer of the model; near names: {", ".join(near)}')
        chosen |= matched
    return [name for name in names if name in chosen]


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split('.'), pattern.split('.')
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
