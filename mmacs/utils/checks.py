"""What a setting of a config is, and the sentence for one that is something else."""

import math
from typing import Container, Iterable

from mmacs.utils.errors import MmacsError, unknown_name

LARGEST = 10**9  # no count of images, epochs or iterations is larger
MAX_LEVELS = 1024  # calls of one layer in a forward: each has a range, or a BatchNorm, of its own


def is_number(value: object) -> bool:
    """Returns whether it is a finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floating-point numbers
        return False


def is_whole(value: object) -> bool:
    """Returns whether it is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def require_whole(name: str, value: object, least: int = 1, most: int = LARGEST) -> None:
    """Requires an integer of a range.

    Raises:
        MmacsError: If it is something else.
    """
    if not is_whole(value) or value < least:
        raise MmacsError(f'{name} must be a whole number, at least {least}, got {value!r}')
    if value > most:
        raise MmacsError(f'{name} must be at most {most}, got {value}')


def require_switch(name: str, value: object) -> None:
    """Requires True or False.

    Raises:
        MmacsError: If it is something else.
    """
    if not isinstance(value, bool):
        raise MmacsError(f'{name} must be True or False, got {value!r}')


def require_known(kind: str, value: object, known: Iterable[str]) -> None:
    """Requires one of several names.

    Raises:
        MmacsError: If it is none of them; the message has the closest.
    """
    names: Container[str] = list(known)
    if value not in names:
        raise unknown_name(kind, value, names)


def require_patterns(name: str, value: object) -> None:
    """Requires a pattern of names, or a list of some.

    Raises:
        MmacsError: If it is something else.
    """
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, (list, tuple)) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise MmacsError(
            f"{name} must be a pattern of names such as 'backbone.layer*', or a list of some, got {value!r}"
        )
