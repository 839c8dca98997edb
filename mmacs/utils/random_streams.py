"""All that a run draws by its seed: a stream of random numbers for each purpose."""

from enum import IntEnum
from typing import Any

import numpy as np

from mmacs.utils.checks import is_whole
from mmacs.utils.errors import MmacsError

MAX_SEED = 2**63 - 1


class Purpose(IntEnum):
    """What a stream is for. The values decide what is drawn, so that they stay as they are."""

    SUBSET = 0  # random subset of an epoch
    ORDER = 1  # order of an epoch
    SWEEP = 2  # permutations of a sweep through all data
    CORESET = 3  # choice of an epoch or pass by importance
    TRIM = 4  # images of equal suspicion, in a round
    SCORING_ORDER = 5  # which of equally stale images are scored first
    HARVEST_CHECK = 6  # images of a round that harvested scores are compared on
    PROXY_CHECK = 7  # images that proxy scores are compared on
    ITEM = 8  # what the transforms of an image draw, in an epoch
    OTHERS = 9  # which images of an epoch the transforms of another may take
    STEP = 10  # what a training step draws in the main process, such as dropout, in an iteration and process
    CANDIDATES = 11  # images that a round chooses among


def random_stream(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Returns the random numbers for one purpose, which are those of no other seed, purpose or numbers.

    Args:
        seed (int): From 0 to 2^63 - 1.
        purpose (Purpose): What they are for.
        *numbers (int): What they are for in particular, such as an epoch, from 0 to 2^32 - 1; always as many for one
            purpose.
    """
    return np.random.default_rng(seed_sequence(seed, purpose, *numbers))


def seed_sequence(seed: int, purpose: Purpose, *numbers: int) -> np.random.SeedSequence:
    """Returns what seeds the stream that :func:`random_stream` gives for the same arguments."""
    # the seed's words are padded before the key's, so that no two pairs of seed and key are laid out alike
    return np.random.SeedSequence(seed, spawn_key=(purpose, *numbers))


def require_seed(name: str, seed: Any) -> int:
    """Returns a seed from a config.

    Args:
        name (str): Name of the setting.
        seed (Any): What the user wrote.

    Raises:
        MmacsError: If it is no whole number from 0 to 2^63 - 1.
    """
    if not is_whole(seed) or not 0 <= seed <= MAX_SEED:
        raise MmacsError(f'{name} must be a whole number from 0 to 2^63 - 1, or None to draw one, got {seed!r}')
    return seed
