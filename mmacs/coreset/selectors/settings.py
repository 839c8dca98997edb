"""How a config becomes a selector."""

import inspect
import math
from typing import Any, Mapping

from mmacs.coreset.selectors.base import Selector
from mmacs.errors import MmacsError, unknown_name
from mmacs.registry import SELECTORS, find


def build_selector(config: Mapping[str, Any]) -> Selector:
    """Build a selector from its config.

    Args:
        config (Mapping[str, Any]): Such as ``dict(type='mmacs.GumbelTopK', temperature=0.1)``.

    Returns:
        Selector: Ready to select.

    Raises:
        MmacsError: If there is no such selector, or an argument is unknown or out of range.
    """
    if not isinstance(config, Mapping) or 'type' not in config:
        raise MmacsError(f"a selector must be a dict with a type, such as dict(type='mmacs.TopK'), got {config!r}")
    settings = dict(config)
    kind = find(SELECTORS, settings.pop('type'))
    known = inspect.signature(kind).parameters
    for name in settings:
        if not known:
            raise MmacsError(f'{kind.__name__} has no arguments, got {name}')
        if name not in known:
            raise unknown_name(f'argument of {kind.__name__}', name, known)
    return kind(**settings)


def is_number(value: object) -> bool:
    """Whether a setting is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
