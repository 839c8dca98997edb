"""Which images a round scores, and what becomes of the scores that training forwards gave: functions of the state."""

from typing import Dict, Sequence

import numpy as np

from mmacs.coreset.scoring.training_scores import MIN_PAIRS, Alignment, align
from mmacs.coreset.state import CoresetState
from mmacs.utils.random_streams import Purpose, random_stream


def due(state: CoresetState, rescore: float, training_columns: Sequence[str], seed: int) -> np.ndarray:
    """Returns the images that the next round scores.

    Args:
        state (CoresetState): Before the round, but with its candidates.
        rescore (float): Share of the candidates that a round after the first scores, stalest first, in [0, 1].
        training_columns (Sequence[str]): Columns that training forwards give. Where these are all columns, images that
            were trained on need no scoring, but for some to compare their scores with.
        seed (int): Decides between images of equal age, and which are compared.

    Returns:
        np.ndarray: Positions, int64, ascending.
    """
    fresh = np.zeros(state.num_images, dtype=bool)
    # of equal age in a random order that stays: neighbours in a data set are often of one class
    order = random_stream(seed, Purpose.SCORING_ORDER).permutation(state.num_images)
    if state.round < 0:
        return state.stalest(1.0, fresh, order)
    checked = np.empty(0, dtype=np.int64)
    if state.training_scores.keys() == set(training_columns):
        trained = np.flatnonzero(have_training_scores(state, training_columns))
        fresh[trained] = state.trusts_training_scores
        if rescore > 0:
            rng = random_stream(seed, Purpose.HARVEST_CHECK, state.round + 1)
            count = min(len(trained), max(2 * MIN_PAIRS, len(trained) // 20))
            checked = rng.choice(trained, count, replace=False)
    return np.union1d(state.stalest(rescore, fresh, order), checked)


def have_training_scores(state: CoresetState, columns: Sequence[str]) -> np.ndarray:
    """Returns which images training forwards gave scores since the last round, bool, shape (M,)."""
    return np.all([np.isfinite(state.training_scores[column]) for column in columns], axis=0)


def merge_training_scores(
    state: CoresetState, positions: np.ndarray, scores: Dict[str, np.ndarray], columns: Sequence[str], rescore: float
) -> Dict[str, Alignment]:
    """Records scores from training forwards, aligned with exact ones, of images that this round did not score.

    Args:
        state (CoresetState): Within the round; its training-time scores are dropped.
        positions (np.ndarray): Images that this round scored, int64, shape (P,).
        scores (Dict[str, np.ndarray]): Their exact scores, each of shape (P,).
        columns (Sequence[str]): Columns that training forwards give.
        rescore (float): See :func:`due`; with 0 there is nothing to align with, and they are taken as they are, as
            InfoBatch (arXiv 2303.04947) does.

    Returns:
        Dict[str, Alignment]: How both kinds of scores relate, by column; empty where training gave none.
    """
    found, merged = {}, {}
    if columns and state.round > 0 and (have := have_training_scores(state, columns)).any():
        both, others = have[positions], np.setdiff1d(np.flatnonzero(have), positions)
        for column in columns:
            given = state.training_scores[column]
            found[column] = align(given[positions[both]], scores[column][both])
            if rescore == 0:
                merged[column] = given[others]
            elif found[column].sound:
                merged[column] = found[column].apply(given[others])
        state.record(others, merged)
        state.trusts_training_scores = len(merged) == len(found)
    state.forget_training_scores()
    return found
