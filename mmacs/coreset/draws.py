"""What is drawn from what is known of the images: candidates of a round, coresets, and what is left out of both."""

from typing import Dict, Mapping, NamedTuple, Optional, Union

import numpy as np

from mmacs.coreset.budget.prediction import Extent
from mmacs.coreset.data import TrainingData
from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.selection.normalisation import comparable_groups
from mmacs.coreset.selection.selectors import Selection
from mmacs.coreset.settings import CoresetSettings
from mmacs.coreset.state import CoresetState
from mmacs.utils.random_streams import Purpose, random_stream

Among = Union[slice, np.ndarray]  # all images, or those in a mask, bool, shape (M,)


class Drawn(NamedTuple):
    """A coreset that was drawn.

    Attributes:
        selection (Selection): The coreset.
        shown (np.ndarray, optional): What the selector has shown with it, bool, shape (N,); None if it doesn't
            remember.
    """

    selection: Selection
    shown: Optional[np.ndarray]


class Draws:
    """Draws from the state of a run; it changes nothing, and the same is drawn from the same.

    Args:
        settings (CoresetSettings): What the config says.
        data (TrainingData): The training images.
        sampler (CoresetSampler): Tells seed and size.
        extent (Extent): How long the run is, and its largest and smallest coreset.
        state (CoresetState): What is known.
    """

    def __init__(
        self,
        settings: CoresetSettings,
        data: TrainingData,
        sampler: CoresetSampler,
        extent: Extent,
        state: CoresetState,
    ) -> None:
        self.settings = settings
        self.data = data
        self.sampler = sampler
        self.extent = extent
        self.state = state

    @property
    def redraws(self) -> bool:
        """Whether each epoch has a coreset of its own."""
        return self.settings.policy.redraw or self.sampler.schedule is not None

    def scores(self) -> Dict[str, np.ndarray]:
        """Returns the scores of the candidates by column."""
        return {name: values[self.state.among] for name, values in self.state.scores.items()}

    def groups(self, among: Optional[np.ndarray] = None) -> Optional[np.ndarray]:
        """Returns the images whose scores are brought to scale among themselves, int64; None: all.

        Args:
            among (np.ndarray, optional): Positions of the images to group; None groups the candidates.
        """
        among = self.state.among if among is None else among
        counts = self.data.object_counts[among] if self.settings.importance.stratified else None
        # scores from training forwards are aligned instead of ranked by age
        ages = None if self.settings.cost.harvest else self.state.rows['scored_at'][among]
        return comparable_groups(ages, counts)

    def importance(self) -> np.ndarray:
        """Returns the importance of each candidate by what is known of it, float64, shape (M,); NaN of other images."""
        return self._spread(self.settings.importance(self.scores(), self.state.beta, self.groups()))

    def excluded(self) -> Optional[np.ndarray]:
        """Returns which images trimming leaves out in this round, bool, shape (M,); None without trimming."""
        return self._trimmed(self.state.scores, self.state.among)

    def barred(self, excluded: Optional[np.ndarray]) -> Optional[np.ndarray]:
        """Returns what this round may not choose: what is :meth:`excluded`, and what is no candidate, bool, (M,)."""
        return self._barred(excluded, self.state.among)

    def suspicion(self) -> Optional[np.ndarray]:
        """Returns how much each candidate looks mislabelled, shape (M,), NaN of other images; None without trimming."""
        found = self.settings.policy.suspicion(self.scores())
        return None if found is None else self._spread(found)

    def coreset(self, number: int) -> Drawn:
        """Returns a coreset by the current scores.

        Args:
            number (int): Number of the epoch or pass, which seeds what is random.
        """
        rng = random_stream(self.sampler.seed, Purpose.CORESET, number)
        importance, excluded = self.importance(), self.barred(self.excluded())
        selection = self._choose(importance, excluded, rng, self.sampler.size)
        policy = self.settings.policy
        if not policy.selector.remembers:
            return Drawn(selection, None)
        labels = self.data.labels if policy.needs_labels else None
        return Drawn(
            selection,
            policy.remember(importance, selection, self._shown(), self.data.positions, labels, excluded),
        )

    def dry_run(self) -> Selection:
        """Returns a choice by made-up scores, so that what cannot be chosen is refused before anything is scored."""
        made_up, candidates = np.linspace(0, 1, len(self.data)), self.candidates()
        equal = dict.fromkeys(self.state.scores, np.zeros(len(self.data), np.float32))
        for among in [slice(None)] if candidates is None else [slice(None), candidates]:
            excluded = self._barred(self._trimmed(equal, among), among)
            for size in (self.extent.largest, self.extent.smallest):
                stream = random_stream(self.sampler.seed, Purpose.CORESET, 0)
                selection = self._choose(made_up, excluded, stream, size)
        return selection

    def candidates(self) -> Optional[np.ndarray]:
        """Returns the images that the next round chooses among, bool, shape (M,); None for all."""
        policy, indices = self.settings.policy, len(self.data.positions)
        count = round(max(self.extent.least, self.state.plan.candidates) * indices)
        if count >= indices:
            return None
        chosen = policy.of_candidates(count / min(self.extent.largest, count)).choose(
            np.zeros(len(self.data)),
            count,
            random_stream(self.sampler.seed, Purpose.CANDIDATES, self.state.round + 1),
            self.state.gaps() + 1,
            self.data.positions,
            self.data.labels if policy.needs_labels else None,
        )
        candidates = np.zeros(len(self.data), dtype=bool)
        candidates[self.data.positions[chosen.indices]] = True
        return candidates

    def _trimmed(self, scores: Mapping[str, np.ndarray], among: Among) -> Optional[np.ndarray]:
        """Returns which of the images in ``among`` are left out as suspicious by these scores of all images."""
        stream = random_stream(self.sampler.seed, Purpose.TRIM, self.state.round + 1)
        found = self.settings.policy.excluded(
            {name: values[among] for name, values in scores.items()}, stream, self._most_trimmed(among)
        )
        if found is None:
            return None
        trimmed = np.zeros(len(self.data), dtype=bool)
        trimmed[among] = found
        return trimmed

    def _most_trimmed(self, among: Among) -> float:
        """Returns the share of the images in ``among`` that may be left out, so that the largest coreset is whole."""
        among_images = np.zeros(len(self.data), dtype=bool)
        among_images[among] = True
        return 1 - self.extent.largest / np.count_nonzero(among_images[self.data.positions])

    @staticmethod
    def _barred(trimmed: Optional[np.ndarray], among: Among) -> Optional[np.ndarray]:
        """Returns what nothing may choose: what is trimmed, and what is no candidate."""
        if isinstance(among, slice):
            return trimmed
        return ~among if trimmed is None else ~among | trimmed

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """Returns what the candidates have in an array of all images, float64, shape (M,); NaN of the others."""
        found = np.full(len(self.data), np.nan)
        found[self.state.among] = values
        return found

    def _choose(
        self, importance: np.ndarray, excluded: Optional[np.ndarray], rng: np.random.Generator, size: int
    ) -> Selection:
        policy = self.settings.policy
        return policy.choose(
            importance,
            size,
            rng,
            self.state.gaps(),
            self.data.positions,
            self.data.labels if policy.needs_labels else None,
            excluded,
            self._shown(),
        )

    def _shown(self) -> Optional[np.ndarray]:
        """Returns what the selector has shown, bool, shape (N,); None if it doesn't remember."""
        if not self.settings.policy.selector.remembers:
            return None
        return np.zeros(len(self.data.positions), dtype=bool) if self.state.shown is None else self.state.shown
