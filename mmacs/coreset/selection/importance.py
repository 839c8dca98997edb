"""How the columns of scores become one number per image."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Union

import numpy as np

from mmacs.coreset.selection.normalisation import normalise
from mmacs.coreset.selection.schedules import beta as beta_at
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError, unknown_name

BETA, REST = 'beta', '1-beta'  # without spaces, which MMEngine takes out of settings of the command line
NORMALISATIONS = ('rank', 'stratified_rank', 'minmax', 'none')


@dataclass(frozen=True)
class Importance:
    """Weighted sum of score columns, each brought to one scale first.

    With the weights ``dict(evs='beta', ds='1 - beta')`` it is the importance of ACS (Huang et al. 2024, arXiv
    2306.07215), ``d = beta(t) EVS + (1 - beta(t)) DS``; ``kl=1.0`` besides adds the relative entropy of QuaRC (arXiv
    2507.17768).

    Args:
        weights (Mapping[str, str or float]): Per column a number, ``'beta'`` or ``'1 - beta'``.
        beta (str or float): See :func:`mmacs.coreset.selection.schedules.beta`.
        normalisation (str): ``'rank'``, ``'minmax'`` or ``'none'``, see :func:`.normalise`; or
            ``'stratified_rank'``: ranks among images with about as many objects, so that importance says nothing of
            the number of objects.

    Raises:
        MmacsError: If there are no weights, or one of the arguments is unknown or out of range.
    """

    weights: Mapping[str, Union[str, float]]
    beta: Union[str, float] = 'cosine'
    normalisation: str = 'rank'

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping) or not self.weights:
            raise MmacsError(
                f"weights must be a dict of columns, such as dict(evs='beta', ds='1 - beta'), got {self.weights!r}; on "
                f'the command line write weights.evs=beta'
            )
        for column, weight in self.weights.items():
            if not is_number(weight) and _spaceless(weight) not in (BETA, REST):
                raise MmacsError(f"the weight of {column} must be a number, 'beta' or '1 - beta', got {weight!r}")
        if self.normalisation not in NORMALISATIONS:
            raise unknown_name('normalisation', self.normalisation, NORMALISATIONS)
        beta_at(self.beta, 0, 1)  # names its mistakes now, not after the first scoring pass

    def __str__(self) -> str:
        terms = []
        for column, weight in self.weights.items():
            factor = {BETA: 'beta ', REST: '(1 - beta) ', 1: ''}.get(_spaceless(weight))
            terms.append(f'{f"{weight:g} " if factor is None else factor}{column}')
        schedule = f', beta {self.beta!r}' if self.uses_beta else ''
        return f'{" + ".join(terms)}{schedule}, normalisation {self.normalisation!r}'

    @property
    def uses_beta(self) -> bool:
        """Whether beta says anything."""
        return any(_spaceless(weight) in (BETA, REST) for weight in self.weights.values())

    @property
    def columns(self) -> List[str]:
        """Names of the columns that it mixes."""
        return list(self.weights)

    def beta_at(self, time: float, end: float) -> float:
        """Beta at a time of a run that ends at ``end``, in epochs or iterations."""
        return beta_at(self.beta, time, end)

    @property
    def stratified(self) -> bool:
        """Whether it needs the strata of object counts."""
        return self.normalisation == 'stratified_rank'

    def __call__(self, columns: Dict[str, np.ndarray], beta: float, groups: Optional[np.ndarray] = None) -> np.ndarray:
        """Mix columns.

        Args:
            columns (Dict[str, np.ndarray]): Finite scores, each of shape (N,).
            beta (float): In [0, 1].
            groups (np.ndarray, optional): Images that are compared among themselves: of scores that models of
                different age gave, and of counts of objects; see :func:`mmacs.coreset.scoring.scores.normalise`.

        Returns:
            np.ndarray: Importance, float64, shape (N,). A column that is the same for all images adds nothing to it.

        Raises:
            MmacsError: If a score is not finite.
        """
        how = 'rank' if self.stratified else self.normalisation
        total = np.zeros(len(next(iter(columns.values()))))
        for name, weight in self.weights.items():
            bad = np.flatnonzero(~np.isfinite(columns[name]))
            if len(bad):
                raise MmacsError(f'{len(bad)} {name} scores are not finite, the first is that of image {bad[0]}')
            if np.ptp(columns[name]) > 0:
                factor = {BETA: beta, REST: 1 - beta}.get(_spaceless(weight), weight)
                total += factor * normalise(columns[name], how, groups)
        return total


def _spaceless(weight: Any) -> Any:
    return weight.replace(' ', '') if isinstance(weight, str) else weight
