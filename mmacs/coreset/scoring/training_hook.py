"""What a training iteration gives to, and takes from, the coreset: scores, and weights of losses."""

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmacs.coreset.data import TrainingData
from mmacs.coreset.scoring.head_hook import HeadHook
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.selection.loss_weights import inverse_probability_weights
from mmacs.coreset.selection.selectors import Selection
from mmacs.utils.distributed import gather_rows
from mmacs.utils.errors import MmacsError

Receive = Callable[[np.ndarray, Dict[str, np.ndarray]], None]


class TrainingHook:
    """Hooks the head of a model for one training iteration at a time.

    Scores stay on the device until :meth:`flush`, so that no iteration waits for it.

    Args:
        model (nn.Module): The quantized model, not wrapped for distributed training.
        data (TrainingData): The training images.
        scorer (Scorer): What scores the outputs of training forwards.
        columns (Sequence[str]): The columns to take from them; empty for none.
        receive (Callable): Takes positions, int64, shape (P,), and scores, each of shape (P,), of all processes.
        max_weight (float, optional): Bound on the weights of losses; None leaves losses as they are.

    Raises:
        MmacsError: If the head's outputs in training are not what the scorer reads, or images cannot be told apart.
    """

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        scorer: Scorer,
        columns: Sequence[str],
        receive: Receive,
        max_weight: Optional[float] = None,
    ) -> None:
        head = scorer.hooked_module(model)
        if head is None:
            raise MmacsError(
                f'harvest and unbiased need a head whose outputs in training are those that are scored, one per image: '
                f'{type(model).__name__} with {type(scorer).__name__} has none'
            )
        _ = data.by_key  # refuses now if images cannot be told apart
        self._model, self._data, self._scorer, self._columns = model, data, scorer, list(columns)
        self._receive = receive
        self._max_weight = max_weight
        self._hooks = HeadHook(head), HeadHook(model.data_preprocessor)
        self._weights: Optional[np.ndarray] = None
        self._seen: Dict[str, Any] = {}
        self._waiting: List[Tuple[Tensor, Tensor]] = []  # per iteration positions and their order, (B, 2), and scores

    def use(self, selection: Selection) -> None:
        """Weights losses for a new coreset from now on, if they are to be weighted."""
        self._weights = self.weights(selection)

    def weights(self, selection: Selection) -> Optional[np.ndarray]:
        """Returns the weight of each image's loss, shape (M,); None if losses are not to be weighted.

        Raises:
            MmacsError: If the coreset's inclusion probabilities are not known, or the bound is out of range.
        """
        if self._max_weight is None:
            return None
        if selection.probabilities is None:
            raise MmacsError(
                'unbiased needs inclusion probabilities: take a selector that draws (GumbelTopK, SoftPruning, '
                'Stratified, Tiers, Random), without class_floor, max_gap and random_share'
            )
        positions = self._data.positions
        weights = np.ones(len(self._data))
        weights[positions[selection.indices]] = inverse_probability_weights(
            selection.probabilities, len(selection.indices), len(positions), self._max_weight
        )
        return weights

    def begin(self, data_samples: List[Any], score: bool = True) -> None:
        """Attaches to the coming forward of these images.

        Args:
            data_samples (list): The batch, as the loader gives it.
            score (bool): Whether its scores will be of use. Defaults to True.
        """
        self._seen = {'positions': self._data.positions_of(data_samples)}
        head, preprocessor = self._hooks
        weights = None if self._weights is None else torch.from_numpy(self._weights[self._seen['positions']]).float()
        record = (lambda outputs: self._seen.update(outputs=outputs)) if score and self._columns else None
        head.attach(weights, record)
        preprocessor.attach(record=lambda data: self._seen.update(data_samples=data['data_samples']))

    def end(self) -> None:
        """Detaches, and scores what the forward gave."""
        for hook in self._hooks:
            hook.detach()
        if 'outputs' in self._seen:
            with torch.no_grad():
                scores = self._scorer.score(
                    self._model, self._seen['outputs'], self._seen['data_samples'], {}, self._columns
                )
            rows = torch.stack([scores[name].float() for name in self._columns], dim=1)
            positions = torch.from_numpy(self._seen['positions'])
            order = torch.full_like(positions, len(self._waiting))
            self._waiting.append((torch.stack([positions, order], dim=1), rows))
        self._seen = {}

    def flush(self) -> None:
        """Hands on the scores of the iterations since the last call. Call it in all processes at once."""
        if not self._columns:
            return
        positions, rows = torch.empty(0, 2, dtype=torch.int64), torch.empty(0, len(self._columns))
        if self._waiting:
            positions, rows = (torch.cat(parts).cpu() for parts in zip(*self._waiting))
        self._waiting = []
        positions, rows = gather_rows(positions), gather_rows(rows)  # so that every process knows what checkpoints need
        latest_last = positions[:, 1].argsort(stable=True)  # of an image that was seen twice the later score counts
        positions, rows = positions[latest_last, 0], rows[latest_last]
        self._receive(positions.numpy(), dict(zip(self._columns, rows.T.numpy())))
