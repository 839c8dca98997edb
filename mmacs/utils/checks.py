"""What a setting of a config is."""

import math


def is_number(value: object) -> bool:
    """Returns whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object) -> bool:
    """Returns whether it is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)
