"""A draw without replacement that prefers high scores."""

from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors.base import Selection, Selector
from mmacs.coreset.selection.selectors.top_k import top_k
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SELECTORS


@SELECTORS.register_module()
class GumbelTopK(Selector):
    """Draws images one after the other with odds ``exp(score / temperature)``, without replacement.

    The highest of the scores after Gumbel noise are such a draw (Kool et al., ICML 2019, arXiv 1903.06059). Low
    temperatures approach :class:`TopK`, high ones :class:`Random`.

    Args:
        temperature (float): In units of the score, positive. Defaults to 0.1: among scores spread over [0, 1], such as
            ranks, and a fraction of 0.1, the image of median score has a probability of about 1 %.

    Raises:
        MmacsError: If the temperature is not positive.
    """

    redraw = True

    def __init__(self, temperature: float = 0.1) -> None:
        if not is_number(temperature) or temperature <= 0:
            raise MmacsError(f'temperature must be positive, got {temperature!r}: without noise use mmacs.TopK')
        self.temperature = temperature

    def select(
        self, scores: np.ndarray, size: int, rng: np.random.Generator, labels: Optional[csr_matrix] = None
    ) -> Selection:
        """See :meth:`Selector.select`. Probabilities are those of :func:`inclusion_probabilities`."""
        logits = scores / self.temperature
        perturbed = rng.gumbel(size=len(scores))
        perturbed += logits
        chosen = top_k(perturbed, size, rng)
        perturbed[chosen] = -np.inf
        return Selection(chosen, inclusion_probabilities(logits[chosen], perturbed.max(initial=-np.inf)))


def inclusion_probabilities(logits: np.ndarray, threshold: float) -> np.ndarray:
    """Probability that an image's perturbed logit exceeds a threshold: ``1 - exp(-exp(logit - threshold))``.

    With the highest perturbed logit that was not chosen as the threshold, weights of one over these probabilities make
    sums over the chosen images unbiased estimates of sums over all (Kool et al. 2019, section 4.2).

    Args:
        logits (np.ndarray): Logits of the chosen images before the noise, shape (size,).
        threshold (float): -inf if all images were chosen.

    Returns:
        np.ndarray: float64, in (0, 1], shape (size,).
    """
    return -np.expm1(-np.exp(np.minimum(logits - threshold, 50)))  # 1 long before 50; exp must not overflow
