"""Attributes of other libraries that have another value for a while."""

from contextlib import contextmanager
from threading import RLock
from typing import Any, Iterator

_REPLACING = RLock()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute has another value in the body; threads take turns, so that none puts back what another put there."""
    with _REPLACING:
        before = vars(owner)[name]
        setattr(owner, name, value)
        try:
            yield
        finally:
            setattr(owner, name, before)
