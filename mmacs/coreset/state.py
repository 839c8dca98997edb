"""What is known of each image: its last scores, when they were taken, when it was last trained on."""

from typing import Dict, List, Sequence

import numpy as np
import torch
from torch import Tensor

from mmacs.utils.errors import MmacsError

# Columns that the ledger derives from others as it records them: times that an image turned from right (1) to wrong (0)
# (forgetting events, Toneva et al. 2019, arXiv 1812.05159). Harvested scores lie between, where a line brought them.
DERIVED = {'forgetting': 'correct'}


def scored_columns(columns: Sequence[str]) -> List[str]:
    """The columns that a scorer has to compute so that the ledger has these."""
    return list(dict.fromkeys(DERIVED.get(column, column) for column in columns))


class Ledger:
    """Arrays over the distinct images of a data set. They travel in the checkpoint, about 4 bytes per image and array.

    Args:
        num_images (int): N.
        columns (Sequence[str]): Names of score columns, derived ones among them.

    Attributes:
        scores (Dict[str, np.ndarray]): Last known scores, float32, shape (N,); NaN where there are none.
        harvested (Dict[str, np.ndarray]): Scores from training forwards since the last round, float32, shape (N,);
            NaN where there are none. They are of another view, so they wait here to be brought to its scale.
        scored_at (np.ndarray): Round in which each image was last scored, int32, shape (N,); -1 for never.
        trained_at (np.ndarray): Round of the last coreset that held it, int32, shape (N,); -1 for never.
        round (int): Number of the current round; -1 before the first.
    """

    def __init__(self, num_images: int, columns: Sequence[str]) -> None:
        self.num_images = num_images
        names = [*scored_columns(columns), *(column for column in columns if column in DERIVED)]
        self.scores = {name: np.full(num_images, np.nan, np.float32) for name in names}
        self.harvested = {name: np.full(num_images, np.nan, np.float32) for name in scored_columns(columns)}
        self.scored_at = np.full(num_images, -1, np.int32)
        self.trained_at = np.full(num_images, -1, np.int32)
        self.round = -1

    def stalest(self, share: float, fresh: np.ndarray) -> np.ndarray:
        """Images to score in a round: all that have no scores, then those whose scores are oldest.

        Args:
            share (float): Share of all images, in [0, 1], rounded up.
            fresh (np.ndarray): Images that need no scoring unless they have no scores, bool, shape (N,).

        Returns:
            np.ndarray: Positions, int64, ascending.
        """
        unscored = self.scored_at < 0
        fresh = fresh & ~unscored
        count = max(int(np.ceil(share * self.num_images)), np.count_nonzero(unscored))
        # of equal age in a random order that stays: neighbours in a data set are often of one class
        order = np.random.default_rng(0).permutation(self.num_images)
        order = order[np.argsort(np.where(fresh, self.round + 1, self.scored_at)[order], kind='stable')]
        return np.sort(order[: min(count, np.count_nonzero(~fresh))])

    def record(self, positions: np.ndarray, columns: Dict[str, np.ndarray]) -> None:
        """Write scores of the current round.

        Args:
            positions (np.ndarray): int64, shape (M,).
            columns (Dict[str, np.ndarray]): Scores, each of shape (M,). Unless they are all that a scorer computes,
                the images stay as stale as they were.
        """
        for derived, source in DERIVED.items():
            if derived in self.scores and source in columns:
                count = np.nan_to_num(self.scores[derived][positions], nan=0.0)
                forgot = (columns[source] < 0.5) & (self.scores[source][positions] >= 0.5)
                self.scores[derived][positions] = count + forgot
        for name, values in columns.items():
            self.scores[name][positions] = values
        if columns.keys() == self.harvested.keys():
            self.scored_at[positions] = self.round

    def trained(self, positions: np.ndarray) -> None:
        """Note that these images are in a coreset of the current round."""
        self.trained_at[positions] = self.round

    def gaps(self) -> np.ndarray:
        """Rounds since each image was last in a coreset, or since the start, int64, shape (N,)."""
        return self.round - np.maximum(self.trained_at.astype(np.int64), 0)

    # ---------------------------------------------------------------- checkpoint
    def state_dict(self) -> Dict[str, Tensor]:
        """Everything as tensors."""
        arrays = {'scored_at': self.scored_at, 'trained_at': self.trained_at, 'round': np.asarray(self.round)}
        arrays.update({f'score_{name}': values for name, values in self.scores.items()})
        arrays.update({f'harvested_{name}': values for name, values in self.harvested.items()})
        return {name: torch.from_numpy(values.copy()) for name, values in arrays.items()}

    def load_state_dict(self, state: Dict[str, Tensor]) -> None:
        """Take up the state of a run that is being resumed.

        Raises:
            MmacsError: If it holds other columns.
        """
        expected = self.state_dict()
        if state.keys() != expected.keys():
            theirs, ours = (sorted(k[6:] for k in s if k.startswith('score_')) for s in (state, expected))
            raise MmacsError(
                f'cannot resume: the checkpoint has the score columns {theirs}, the config needs {ours}: give '
                'CoresetHook the weights and the trim of the run that wrote it'
            )
        arrays = {name: tensor.cpu().numpy().copy() for name, tensor in state.items()}  # MMEngine loads them to the GPU
        self.scored_at, self.trained_at = arrays['scored_at'], arrays['trained_at']
        self.round = int(arrays['round'])
        self.scores = {name: arrays[f'score_{name}'] for name in self.scores}
        self.harvested = {name: arrays[f'harvested_{name}'] for name in self.harvested}
