"""Checks that selectors share."""

import math


def is_number(value: object) -> bool:
    """Whether a setting is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
