"""What a training iteration gives to, and takes from, the coreset: scores for nothing, weights of losses."""

from typing import Any, Dict, List, Optional

import numpy as np
import torch
from torch import nn

from mmacs.coreset.engine import CoresetEngine
from mmacs.coreset.scoring.head_hook import HeadHook
from mmacs.coreset.selection.loss_weights import inverse_probability_weights
from mmacs.coreset.selection.selectors import Selection
from mmacs.utils.errors import MmacsError


class TrainingHook:
    """Taps the head of a model for one training iteration at a time.

    Args:
        engine (CoresetEngine): Takes harvested scores, and knows the inclusion probabilities.
        model (nn.Module): The quantized model, not wrapped for distributed training.
        unbiased (bool): Whether losses are weighted.
        max_weight (float): Bound on the weights.

    Raises:
        MmacsError: If the head's outputs in training are not what the scorer reads, or none of the columns can be
            had from them.
    """

    def __init__(self, engine: CoresetEngine, model: nn.Module, unbiased: bool, max_weight: float) -> None:
        head = engine.scorer.hooked_module(model)
        if head is None:
            raise MmacsError(
                f'harvest and unbiased need a head whose outputs in training are those that are scored, one per image: '
                f'{type(model).__name__} with {type(engine.scorer).__name__} has none'
            )
        if engine.harvest and not engine.training_columns:
            raise MmacsError(
                f'harvest: none of {engine.columns} can be had from a training forward, but '
                f'{sorted(engine.scorer.training_columns)} can: choose weights with one of these, or leave out harvest'
            )
        _ = engine.view.by_key  # refuses now if images cannot be told apart
        self._engine = engine
        self._model = model
        self._unbiased = unbiased
        self._max_weight = max_weight
        self._hooks = HeadHook(head), HeadHook(model.data_preprocessor)
        self._weights: Optional[np.ndarray] = None
        self._seen: Dict[str, Any] = {}

    def use(self, selection: Selection) -> None:
        """Weight losses for a new coreset from now on, if they are to be weighted."""
        self._weights = self.weights(selection)

    def weights(self, selection: Selection) -> Optional[np.ndarray]:
        """Weight of each image's loss, shape (M,); None if losses are not to be weighted.

        Raises:
            MmacsError: If the coreset's inclusion probabilities are not known, or a setting is out of range.
        """
        if not self._unbiased:
            return None
        if selection.probabilities is None:
            raise MmacsError(
                'unbiased needs inclusion probabilities: take a selector that draws (GumbelTopK, SoftPruning, '
                'Stratified, Tiers, Random), without class_floor, max_gap and random_share'
            )
        positions = self._engine.view.positions
        weights = np.ones(len(self._engine.view))
        weights[positions[selection.indices]] = inverse_probability_weights(
            selection.probabilities, len(selection.indices), len(positions), self._max_weight
        )
        return weights

    def begin(self, data_samples: List[Any], harvest: bool = True) -> None:
        """Attach to the coming forward of these images.

        Args:
            data_samples (list): The batch, as the loader gives it.
            harvest (bool): Whether its scores will be of use. Defaults to True.
        """
        self._seen = {'positions': self._engine.view.positions_of(data_samples)}
        head, preprocessor = self._hooks
        weights = None if self._weights is None else torch.from_numpy(self._weights[self._seen['positions']]).float()
        record = (
            (lambda outputs: self._seen.update(outputs=outputs)) if harvest and self._engine.training_columns else None
        )
        head.attach(weights, record)
        preprocessor.attach(record=lambda data: self._seen.update(data_samples=data['data_samples']))

    def end(self) -> None:
        """Detach, and score what the forward gave."""
        for hook in self._hooks:
            hook.detach()
        if 'outputs' in self._seen:
            self._engine.harvested(**self._seen, model=self._model)
        self._seen = {}
