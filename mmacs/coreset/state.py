"""What a run knows of each image, and where it stands: all of this travels in checkpoints, and nothing else does."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np
import torch

from mmacs.coreset.budget.prediction import Plan
from mmacs.coreset.selection.selectors import Selection
from mmacs.utils.errors import MmacsError

VERSION = 1

# Columns that are derived from others as they are recorded: times that an image turned from right (1) to wrong (0)
# (forgetting events, Toneva et al. 2019, arXiv 1812.05159). Scores from training lie between.
DERIVED = {'forgetting': 'correct'}

_SCORE, _TRAINING = 'score_', 'training_'


def scored_columns(columns: Sequence[str]) -> List[str]:
    """Returns the columns that a scorer has to compute so that these are known."""
    return list(dict.fromkeys(DERIVED.get(column, column) for column in columns))


@dataclass
class Progress:
    """What was spent so far.

    Attributes:
        selection_seconds (float): Wall time of coreset selection.
        training_seconds (float): Wall time of training.
        trained_images (int): Images trained on, counted each time, in all processes.
    """

    selection_seconds: float = 0.0
    training_seconds: float = 0.0
    trained_images: int = 0


@dataclass
class CoresetState:
    """The state of coreset selection over M distinct images.

    Args:
        num_images (int): M.
        columns (Sequence[str]): Names of score columns, derived ones among them.
        plan (Plan): What rounds cost at most; a budget may change it.
        next_round (int): Epoch (or iteration) from which on the next round is due.

    Attributes:
        rows (np.ndarray): A structured array, shape (M,), a row per image. Fields: ``scored_at`` (int32), the round in
            which it was last scored, -1 for never; ``trained_at`` (int32), the round of the last coreset that held it,
            -1 for never; ``score_<column>`` (float32), its last known scores, NaN where there are none; and
            ``training_<column>`` (float32), scores from training forwards since the last round, NaN where there are
            none. These are of another view of the image: they wait here to be brought to the scale of the others.
        round (int): Number of the current round, -1 before the first.
        beta (float): Weight of the error score in the current round.
        selection (Selection): The current coreset, None before the first round.
        shown (np.ndarray): Indices that a selector that remembers has shown in its present pass, bool, shape (N,); None
            for none.
        candidates (np.ndarray): Images that coresets of the current round are drawn from, bool, shape (M,), all of them
            with scores; None for all images.
        trusts_training_scores (bool): Whether the last scores from training forwards were sound.
        progress (Progress): What was spent so far.
    """

    num_images: int
    columns: Sequence[str]
    plan: Plan
    next_round: int = 0
    round: int = -1
    beta: float = 0.0
    selection: Optional[Selection] = None
    shown: Optional[np.ndarray] = None
    candidates: Optional[np.ndarray] = None
    trusts_training_scores: bool = True
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        scored = scored_columns(self.columns)
        derived = [column for column in self.columns if column in DERIVED]
        names = [f'{_SCORE}{column}' for column in (*scored, *derived)] + [f'{_TRAINING}{column}' for column in scored]
        kinds = [('scored_at', '<i4'), ('trained_at', '<i4'), *((name, '<f4') for name in names)]
        self.rows = np.zeros(self.num_images, dtype=kinds)
        for name, kind in kinds:
            self.rows[name] = np.nan if kind == '<f4' else -1

    @property
    def scores(self) -> Dict[str, np.ndarray]:
        """Returns the last known scores by column, views of :attr:`rows`."""
        return self._views(_SCORE)

    @property
    def training_scores(self) -> Dict[str, np.ndarray]:
        """Returns the scores from training forwards by column, views of :attr:`rows`."""
        return self._views(_TRAINING)

    def _views(self, prefix: str) -> Dict[str, np.ndarray]:
        return {n.removeprefix(prefix): self.rows[n] for n in self.rows.dtype.names if n.startswith(prefix)}

    @property
    def among(self) -> Union[slice, np.ndarray]:
        """Returns what picks the candidates' entries out of an array of all images."""
        return slice(None) if self.candidates is None else self.candidates

    def gaps(self) -> np.ndarray:
        """Returns the rounds since each image was last in a coreset, or since the start, int64, shape (M,)."""
        return self.round - np.maximum(self.rows['trained_at'].astype(np.int64), 0)

    def stalest(self, share: float, fresh: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Returns the candidates to score in a round: all that have no scores, then those whose scores are oldest.

        Args:
            share (float): Share of the candidates, in [0, 1], rounded up.
            fresh (np.ndarray): Images that need no scoring unless they have no scores, bool, shape (M,).
            order (np.ndarray): All positions, int64, shape (M,): of equal age, those that it has first come first.

        Returns:
            np.ndarray: Positions, int64, ascending.
        """
        scored_at = self.rows['scored_at']
        among = np.zeros(self.num_images, dtype=bool)
        among[self.among] = True
        unscored = among & (scored_at < 0)
        fresh = fresh & ~unscored
        count = max(int(np.ceil(share * np.count_nonzero(among))), np.count_nonzero(unscored))
        order = order[among[order]]
        order = order[np.argsort(np.where(fresh, self.round + 1, scored_at)[order], kind='stable')]
        return np.sort(order[: min(count, np.count_nonzero(among & ~fresh))])

    # ---------------------------------------------------------------- what changes it
    def record(self, positions: np.ndarray, columns: Dict[str, np.ndarray]) -> None:
        """Writes scores of the current round.

        Args:
            positions (np.ndarray): int64, shape (P,).
            columns (Dict[str, np.ndarray]): Scores, each of shape (P,). Unless they are all that a scorer computes, the
                images stay as stale as they were.
        """
        scores = self.scores
        for derived, source in DERIVED.items():
            if derived in scores and source in columns:
                count = np.nan_to_num(scores[derived][positions], nan=0.0)
                forgot = (columns[source] < 0.5) & (scores[source][positions] >= 0.5)
                scores[derived][positions] = count + forgot
        for name, values in columns.items():
            scores[name][positions] = values
        if columns.keys() == self.training_scores.keys():
            self.rows['scored_at'][positions] = self.round

    def record_training_scores(self, positions: np.ndarray, columns: Dict[str, np.ndarray]) -> None:
        """Writes scores that training forwards gave, each of shape (P,), to wait for the next round."""
        for name, values in columns.items():
            self.training_scores[name][positions] = values

    def forget_training_scores(self) -> None:
        """Drops the scores that training forwards gave."""
        for values in self.training_scores.values():
            values[:] = np.nan

    def select(self, selection: Selection, positions: np.ndarray) -> None:
        """Takes a coreset as the current one.

        Args:
            selection (Selection): Of indices from 0 to N - 1.
            positions (np.ndarray): Which image each index of the data set shows, int64, shape (N,).
        """
        self.selection = selection
        self.rows['trained_at'][positions[selection.indices]] = self.round

    # ---------------------------------------------------------------- checkpoint
    def state_dict(self) -> Dict[str, Any]:
        """Returns tensors and plain values; the rows as bytes, with the names and types of their fields."""
        state = {
            'version': VERSION,
            'fields': [[name, self.rows.dtype[name].str] for name in self.rows.dtype.names],
            'rows': torch.from_numpy(self.rows.copy().view(np.uint8).reshape(self.num_images, -1)),
            'round': self.round,
            'beta': self.beta,
            'trusts_training_scores': self.trusts_training_scores,
            'plan': list(self.plan),
            'next_round': self.next_round,
            **vars(self.progress),
        }
        if self.shown is not None:
            state['shown'] = torch.from_numpy(self.shown.copy())
        if self.candidates is not None:
            state['candidates'] = torch.from_numpy(self.candidates.copy())
        if self.selection is not None:
            chosen = {name: value for name, value in self.selection._asdict().items() if value is not None}
            state.update({name: torch.from_numpy(value.copy()) for name, value in chosen.items()})
        return state

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Takes up the state of a run that is being resumed.

        Raises:
            MmacsError: If it is of another number of images, has other columns, or was written by another version.
        """
        if state.get('version') != VERSION:
            raise MmacsError(
                f'cannot resume: the coreset in the checkpoint has the format {state.get("version")!r}, this version '
                f'of mmacs reads {VERSION}'
            )
        names = [name for name, _ in state['fields']]
        if len(state['rows']) != self.num_images:
            raise MmacsError(
                f'cannot resume: the data set had {len(state["rows"])} images when the checkpoint was written and now '
                f'has {self.num_images}'
            )
        if sorted(names) != sorted(self.rows.dtype.names):
            theirs, ours = (
                sorted(n[len(_SCORE) :] for n in of if n.startswith(_SCORE)) for of in (names, self.rows.dtype.names)
            )
            raise MmacsError(
                f'cannot resume: the checkpoint has the score columns {theirs}, the config needs {ours}: give '
                'CoresetHook the importance and the trim of the run that wrote it'
            )
        rows = state['rows'].cpu().numpy().view(np.dtype([tuple(pair) for pair in state['fields']])).reshape(-1)
        for name in names:
            self.rows[name] = rows[name]
        self.round, self.beta = int(state['round']), state['beta']
        self.trusts_training_scores = state['trusts_training_scores']
        self.plan, self.next_round = Plan(*state['plan']), state['next_round']
        self.progress = Progress(**{name: state[name] for name in vars(self.progress)})
        self.shown = state['shown'].cpu().numpy() if 'shown' in state else None
        self.candidates = state['candidates'].cpu().numpy() if 'candidates' in state else None
        self.selection = None
        if 'indices' in state:  # MMEngine loads checkpoints to the GPU
            probabilities = state.get('probabilities')
            self.selection = Selection(
                state['indices'].cpu().numpy(), None if probabilities is None else probabilities.cpu().numpy()
            )
