"""Images that look mislabelled: found by the teacher's own error, without clean labels.

The quantized model's error is high where an image is hard for it and where its label is wrong. The full-precision
model's error on the same label tells the two apart: what the teacher can't fit either is not worth learning (reducible
holdout loss, Mindermann et al. 2022, arXiv 2206.07137, with the teacher in the place of the holdout model). A teacher
that was trained on the wrong labels long enough to know them by heart hides them.

The disagreement of teacher and quantized model doesn't depend on the label, so by itself it says nothing of the label's
error: on CIFAR-10 with wrong labels a weight of 0.1 on its rank changed little, and greater ones found fewer wrong
labels than the teacher's error alone. It does order images of equal error, of which there are many: where a confident
teacher contradicts a wrong label its error is sqrt(2), to the last digit that scores have, and by index the first
classes of a sorted data set would be the only ones to lose images.
"""

from typing import Dict, Optional

import numpy as np
from scipy.stats import rankdata

from mmacs.coreset.selection.normalisation import normalise
from mmacs.coreset.selection.selectors.top_k import top_k
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError


def suspicion(teacher_error: np.ndarray, ds: Optional[np.ndarray] = None) -> np.ndarray:
    """Returns how much each image looks mislabelled: the rank of the teacher's error.

    Args:
        teacher_error (np.ndarray): Error of the full-precision model on the given labels, ``|| p_T - y ||_2`` or a
            detection loss, shape (N,).
        ds (np.ndarray, optional): Disagreement scores, shape (N,): of equal errors the one on which teacher and
            quantized model agree more is the more suspicious.

    Returns:
        np.ndarray: Ranks scaled to [0, 1], float64, shape (N,); 1 is the most suspicious.

    Raises:
        MmacsError: If a score is not finite.
    """
    for name, column in (('teacher error', teacher_error), ('disagreement', ds)):
        bad = np.flatnonzero(~np.isfinite(column)) if column is not None else ()
        if len(bad):
            raise MmacsError(f'{len(bad)} scores of {name} are not finite, the first is that of image {bad[0]}')
    key = rankdata(teacher_error, 'dense') * len(teacher_error)
    if ds is not None:
        key = key - rankdata(ds, 'dense')  # less than the distance between two ranks of the error
    return normalise(key, 'rank')


def trimmed(suspicion: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Mark the most suspicious images.

    Args:
        suspicion (np.ndarray): Shape (N,).
        share (float): Share of the images to mark, in [0, 1).
        rng (np.random.Generator): The source of chance.

    Returns:
        np.ndarray: bool, shape (N,); exactly ``round(share * N)`` are True; of equal suspicion chance
        decides.

    Raises:
        MmacsError: If the share is out of range.
    """
    if not is_number(share) or not 0 <= share < 1:
        raise MmacsError(f'the share of trimmed images must be at least 0 and below 1, got {share!r}')
    marked = np.zeros(len(suspicion), dtype=bool)
    marked[top_k(suspicion, round(share * len(suspicion)), rng)] = True
    return marked


def noise_counts(
    chosen: np.ndarray,
    noisy: np.ndarray,
    trimmed: Optional[np.ndarray] = None,
    candidates: Optional[np.ndarray] = None,
) -> Dict[str, float]:
    """Returns what a selection made of images that are known to be noisy.

    Args:
        chosen (np.ndarray): Images of the coreset, bool, shape (N,), at least one.
        noisy (np.ndarray): Images whose annotations were made wrong, bool, shape (N,).
        trimmed (np.ndarray, optional): Images left out as suspected label errors, bool, shape (N,).
        candidates (np.ndarray, optional): Images that could be trimmed, bool, shape (N,); None for all.

    Returns:
        Dict[str, float]: ``noisy_chosen``, the number of noisy images in the coreset; ``noisy_share``, their share of
        the coreset; ``noisy_share_of_all``, that of noisy images among all. With ``trimmed`` also ``trim_precision``,
        the share of noisy images among the trimmed, and ``trim_recall``, that of trimmed images among the noisy that
        could be trimmed; each is 1 where there is nothing to be wrong about.
    """
    counts = {
        'noisy_chosen': float(np.count_nonzero(chosen & noisy)),
        'noisy_share': float(noisy[chosen].mean()),
        'noisy_share_of_all': float(noisy.mean()),
    }
    if trimmed is not None:
        counts['trim_precision'] = float(noisy[trimmed].mean()) if trimmed.any() else 1.0
        within = noisy if candidates is None else noisy & candidates
        counts['trim_recall'] = float(trimmed[within].mean()) if within.any() else 1.0
    return counts
