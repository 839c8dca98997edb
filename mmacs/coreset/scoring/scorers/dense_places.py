"""Candidates of dense heads: which anchor stands for a place, and its class probabilities. Pure functions."""

import torch
from torch import Tensor

from mmacs.adapters.kinds import DenseLevel, at_anchors
from mmacs.coreset.scoring.probabilities import class_probabilities


def best_anchors(level: DenseLevel) -> Tensor:
    """Returns the most confident anchor of each place, ``place * P + prior``; int64, shape (B, H W)."""
    places = torch.arange(level.num_places, device=level.logits.device)
    if level.num_priors == 1:
        return places.expand(len(level.logits), -1)
    if level.activation == 'softmax':
        confidence = class_probabilities(level.logits, level.activation, 2).amax(2)
    else:
        confidence = level.logits.amax(2)  # the greatest logit has the greatest probability
        if level.quality is not None:
            confidence = class_probabilities(confidence, level.activation) * level.quality.sigmoid()
    return places * level.num_priors + confidence.max(1).indices.flatten(1)  # much faster here than argmax


def probabilities_at(level: DenseLevel, anchors: Tensor) -> Tensor:
    """Class probabilities of anchors, the quality multiplied in where there is one.

    Args:
        level (DenseLevel): The level.
        anchors (Tensor): ``place * P + prior``, int64, shape (B, M).

    Returns:
        Tensor: Shape (B, M, K).
    """
    probs = class_probabilities(at_anchors(level.logits, anchors), level.activation)
    if level.quality is not None:
        probs = probs * at_anchors(level.quality[:, :, None], anchors).sigmoid()
    return probs
