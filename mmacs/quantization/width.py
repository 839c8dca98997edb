"""What a quantizer or a BatchNorm is at further bit-widths, kept beside what it is at the one that is set."""

import copy
from typing import Any, Callable, Dict, List, Optional

from torch import Tensor, nn

# Attributes of a quantizer that belong to a bit-width, beside those that change with it
_OF_A_WIDTH = ('bits', '_observed', '_flags_cache', '_flags_versions')
_LOADS = '_loads_widths'  # marks modules that read their widths from checkpoints


class Width(nn.Module):
    """What its owner is at one further bit-width: parameters, buffers and plain attributes of the same names.

    Setting the width exchanges them with the owner's, so that the owner is of its class, has its names and computes
    as any other. In a state dict each width has its place, whichever is set: the owner's names are those of the widest.

    Args:
        bits (int): The bit-width.
        changed (nn.Module): The owner, as it is with so many bits; its tensors are taken.
        parameters (bool): Whether parameters differ between widths too, beside buffers.
        plain (Dict[str, Any]): Its plain attributes that differ between widths.
    """

    def __init__(self, bits: int, changed: nn.Module, parameters: bool, plain: Dict[str, Any]) -> None:
        super().__init__()
        self.bits = bits
        self.is_set = False  # whether the owner has what is of this width, and this module what is of the widest
        self.plain = plain
        if parameters:
            for name, parameter in changed.named_parameters(recurse=False):
                self.register_parameter(name, parameter)
        for name, buffer in changed.named_buffers(recurse=False):
            self.register_buffer(name, buffer)

    @property
    def place(self) -> str:
        """Its name in the owner."""
        return f'at_{self.bits}'

    def exchange(self, owner: nn.Module) -> None:
        """Exchange what is of this width with what the owner has."""
        for ours, theirs in ((self._parameters, owner._parameters), (self._buffers, owner._buffers)):
            for name in ours:
                ours[name], theirs[name] = theirs[name], ours[name]
        for name, value in self.plain.items():
            self.plain[name] = vars(owner)[name]
            setattr(owner, name, value)
        self.is_set = not self.is_set

    def names(self) -> List[str]:
        """Returns the names of its tensors."""
        return [*self._parameters, *self._buffers]

    # ---------------------------------------------------------------- state
    def _forget_flags(self) -> None:
        if '_flags_cache' in self.plain:
            self.plain['_flags_cache'] = None  # read anew once the width is set

    def train(self, mode: bool = True) -> 'Width':
        """Switch the mode; flags are read anew."""
        self._forget_flags()
        return super().train(mode)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_flags()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> 'Width':
        self._forget_flags()
        return super()._apply(fn, *args, **kwargs)

    def _save_to_state_dict(self, destination: Dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_set:
            _exchange_keys(destination, prefix.removesuffix(f'{self.place}.'), self)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; a full-precision checkpoint, which has nothing for it, is no mistake."""
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)
            self._forget_flags()


def add_widths(owner: nn.Module, widths: List[int]) -> None:
    """Give a quantizer or a BatchNorm further bit-widths, each with a state of its own that starts as the owner's.

    A quantizer has parameters and buffers of its own at each, a BatchNorm its running statistics.

    Args:
        owner (nn.Module): The module, as it is at the widest.
        widths (List[int]): The other bit-widths.

    Raises:
        MmacsError: If it is a quantizer that can't change its bits.
    """
    for bits, changed in [(bits, copy.deepcopy(owner)) for bits in widths]:
        plain: Dict[str, Any] = {}
        changes_bits = hasattr(changed, 'change_bits')
        if changes_bits:
            changed.change_bits(bits)
            plain = {name: vars(changed)[name] for name in _OF_A_WIDTH} | _changed_attributes(owner, changed)
        width = Width(bits, changed, parameters=changes_bits, plain=plain)
        width.train(owner.training)
        owner.add_module(width.place, width)
    _load_widths(owner)


def widths_of(owner: nn.Module) -> List[Width]:
    """Returns the further bit-widths of a module, none of most."""
    return [child for child in owner._modules.values() if isinstance(child, Width)]


def current_width(owner: nn.Module) -> Optional[int]:
    """Returns the further bit-width that is set; None at the widest."""
    return next((width.bits for width in widths_of(owner) if width.is_set), None)


def set_width(owner: nn.Module, bits: Optional[int]) -> None:
    """Set a bit-width of a module, in place.

    Args:
        owner (nn.Module): The module.
        bits (int, optional): The bit-width; None, or one that it has not, for the widest.
    """
    widths = widths_of(owner)
    for width in [each for each in widths if each.is_set] + [each for each in widths if each.bits == bits]:
        width.exchange(owner)
    if widths:
        _load_widths(owner)


def at_each_width(owner: nn.Module, function: Callable[[], Any]) -> None:
    """Call a function with each bit-width of a module set in turn; once for a module with one. Its own is put back."""
    widths = widths_of(owner)
    before = current_width(owner)
    try:
        for bits in (None, *(width.bits for width in widths)):
            set_width(owner, bits)
            function()
    finally:
        set_width(owner, before)


def at_this_width(owner: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that computes at the width that is set now, whichever is when it is called: in backward."""
    if not widths_of(owner):
        return function
    bits = current_width(owner)

    def computed(*args: Any) -> Any:
        before = current_width(owner)
        if before == bits:
            return function(*args)
        set_width(owner, bits)
        try:
            return function(*args)
        finally:
            set_width(owner, before)

    return computed


def _changed_attributes(owner: nn.Module, changed: nn.Module) -> Dict[str, Any]:
    """Returns plain attributes that a change of bits has changed."""
    kept = {name: value for name, value in vars(changed).items() if isinstance(value, (bool, int, float, str, tuple))}
    return {name: value for name, value in kept.items() if value != vars(owner)[name]}


def _load_widths(owner: nn.Module) -> None:
    """Have a module load each width into its place; again where a conversion of BatchNorm has lost it."""
    if not vars(owner).get(_LOADS):
        owner.register_load_state_dict_pre_hook(_before_loading)
        vars(owner)[_LOADS] = True


def _before_loading(owner: nn.Module, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
    """Put what is going to be loaded to where the module has it now; what has one BatchNorm gives it to each width."""
    for width in widths_of(owner):
        if isinstance(owner, nn.modules.batchnorm._BatchNorm):
            for name in width.names():
                if prefix + name in state_dict:
                    state_dict.setdefault(f'{prefix}{width.place}.{name}', state_dict[prefix + name])
        if width.is_set:
            _exchange_keys(state_dict, prefix, width)


def _exchange_keys(state: Dict[str, Any], prefix: str, width: Width) -> None:
    for name in width.names():
        ours, theirs = f'{prefix}{width.place}.{name}', prefix + name
        if ours in state and theirs in state:
            state[ours], state[theirs] = state[theirs], state[ours]
