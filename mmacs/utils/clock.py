"""Wall time, whatever the clock does."""

import math
import time


def seconds_since(start: float) -> float:
    """Returns the seconds since a value of ``time.perf_counter``; 0 where the clock went backwards or failed."""
    seconds = time.perf_counter() - start
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
