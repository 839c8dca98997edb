"""Modules that count how often they are called within one forward."""

from typing import Any

from torch import nn


class Counted(nn.Module):
    """A module that knows which call of the forward is its next."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def next_call(self) -> int:
        """Returns the number of calls before this one."""
        self.calls += 1
        return self.calls - 1


def begin_forward(module: nn.Module, args: Any = ()) -> None:
    """Have all that counts inside of a module begin anew; it serves as a forward pre-hook, too.

    Args:
        module (nn.Module): Any module.
        args (Any): What it is called with, which is not looked at.
    """
    for each in module.modules():
        if hasattr(each, 'calls'):
            each.calls = 0
