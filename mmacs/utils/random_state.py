"""The random generators that transforms and models draw from: those of Python, NumPy and torch."""

import random
from contextlib import contextmanager
from typing import Iterator, Sequence, Union

import numpy as np
import torch

from mmacs.utils.random_streams import Purpose, seed_sequence


@contextmanager
def kept_random_state(gpus: Sequence[Union[int, torch.device]] = ()) -> Iterator[None]:
    """Puts the generators back as they were.

    Args:
        gpus (Sequence[int or torch.device]): GPUs whose generators are kept too. Defaults to none.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def seed_generators(seed: int, purpose: Purpose, *numbers: int) -> int:
    """Has the generators of the CPU begin a stream, see :func:`mmacs.utils.random_streams.random_stream`.

    Args:
        seed (int): From 0 to 2^63 - 1.
        purpose (Purpose): What the stream is for.
        *numbers (int): What it is for in particular, from 0 to 2^32 - 1.

    Returns:
        int: A seed for the generators of other devices, from 0 to 2^63 - 1.
    """
    words = seed_sequence(seed, purpose, *numbers).generate_state(8, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(words[1:6].view(np.uint32))
    torch.default_generator.manual_seed(int(words[6] >> np.uint64(1)))
    return int(words[7] >> np.uint64(1))
