from itertools import product

from mmacs.utils.random_streams import Purpose, random_stream


def test_no_two_streams_are_alike():
    """Seeds of several words, and numbers that end in zeros, are laid out apart."""
    seeds, numbers = (0, 1, 3, 2**32, 2**32 + 3, 2**63 - 1), ((), (0,), (1,), (0, 0), (1, 0), (0, 1))
    keys = [*product(seeds, Purpose, numbers)]
    assert len({random_stream(seed, purpose, *own).integers(2**63) for seed, purpose, own in keys}) == len(keys)


def test_a_stream_is_what_it_was():
    """What a run draws is part of what a seed promises: resumed runs and comparisons hang on it."""
    purposes = (Purpose.SUBSET, Purpose.ORDER, Purpose.SWEEP, Purpose.CORESET)
    drawn = [random_stream(3, purpose, 5).permutation(10)[:4].tolist() for purpose in purposes]
    assert drawn == [[7, 2, 0, 4], [8, 9, 6, 0], [1, 6, 7, 3], [2, 1, 6, 7]]
