"""What a round came to, in numbers and in remarks, for the log and as scalars."""

import logging
from typing import Dict, Iterator, Optional, Tuple

import numpy as np

from mmacs.coreset.draws import Draws
from mmacs.coreset.selection.class_spread import whip_saw
from mmacs.coreset.selection.constraints import AUTO
from mmacs.coreset.selection.selectors import TopK
from mmacs.coreset.selection.trimming import noise_counts

Remark = Tuple[str, int]  # a sentence, and the level at which it is logged


def round_facts(draws: Draws, found: Dict[str, float], before: Optional[np.ndarray]) -> Dict[str, float]:
    """Returns what a person sees of a round, after its first draw.

    Args:
        draws (Draws): What was drawn from; its sampler has the coreset.
        found (Dict[str, float]): What scoring gave.
        before (np.ndarray, optional): The coreset before it, indices, int64.
    """
    data, sampler, settings, state = draws.data, draws.sampler, draws.settings, draws.state
    size, chosen = sampler.size, sampler.indices
    fraction = sampler.fraction if sampler.schedule is None else size / len(data.positions)
    facts: Dict[str, float] = {'fraction': fraction, 'images': size}
    if before is not None:
        facts['overlap'] = len(np.intersect1d(before, chosen)) / size
    facts.update(found)
    excluded = draws.excluded()
    if excluded is not None:
        facts['trimmed'] = int(excluded.sum())
        if settings.policy.constraints.trim == AUTO:
            facts['wrong_share'] = excluded[state.among].mean()
    facts.update(_facts_of_selector(draws, draws.barred(excluded)))
    if data.noisy.any():
        held = np.zeros(len(data), dtype=bool)
        held[data.positions[chosen]] = True
        facts.update(noise_counts(held, data.noisy, excluded, state.candidates))
    return facts


def _facts_of_selector(draws: Draws, barred: Optional[np.ndarray]) -> Dict[str, float]:
    positions = draws.data.positions
    chosen = np.zeros(len(positions), dtype=bool)
    chosen[draws.sampler.indices] = True
    free = slice(None) if barred is None else ~barred[positions]
    return draws.settings.policy.selector.facts(draws.importance()[positions][free], chosen[free])


def remarks(draws: Draws) -> Iterator[Remark]:
    """Gives what is odd about a round: scores that tell no image from another, classes that top-k left out."""
    where = f'Round {draws.state.round}'
    if len(draws.data) > 1:
        scores, importance = draws.scores(), draws.importance()
        columns = draws.settings.columns
        equal = [f'{name} ({scores[name][0]:.4g})' for name in columns if np.ptp(scores[name]) == 0]
        if equal:
            yield f'{where}: the same for all images, and so left out: {", ".join(equal)}.', logging.INFO
        if np.nanmax(importance) == np.nanmin(importance):
            yield f'{where}: all images are equally important: chance alone chooses.', logging.WARNING
    if isinstance(draws.settings.policy.selector, TopK) and draws.data.has_classes:
        said = whip_saw(draws.data.labels[draws.data.positions], draws.state.selection.indices)
        if said:
            yield f'{where}: {said}.', logging.WARNING
