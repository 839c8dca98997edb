"""EVS and DS of an image classifier (Huang et al. 2024, arXiv 2306.07215)."""

from typing import Any, Dict, List

import torch
from torch import Tensor, nn

from mmacs.coreset.scorers.base import Scorer
from mmacs.coreset.scores import disagreement_score, error_vector_score
from mmacs.errors import MmacsError
from mmacs.registry import SCORERS


@SCORERS.register_module()
class ClassificationScorer(Scorer):
    """Scores on the class probabilities of an MMPreTrain classifier with one label per image.

    Both scores lie in [0, sqrt(2)], so they are mixed as they are.
    """

    normalisation = 'none'

    def check(self, model: nn.Module) -> None:
        """Require an MMPreTrain classifier."""
        if not hasattr(model, 'head') or not hasattr(model, 'backbone') or hasattr(model, 'bbox_head'):
            raise MmacsError(f'ClassificationScorer scores MMPreTrain classifiers, not {type(model).__name__}')

    def __call__(
        self, model: nn.Module, teacher: nn.Module, inputs: Tensor, data_samples: List[Any]
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.__call__`."""
        labels = torch.cat([sample.gt_label for sample in data_samples])
        if len(labels) != len(data_samples):
            raise MmacsError('ClassificationScorer needs one label per image, these images have several')
        probs, teacher_probs = (_probabilities(net, inputs, data_samples) for net in (model, teacher))
        return {'evs': error_vector_score(probs, labels), 'ds': disagreement_score(probs, teacher_probs)}


def _probabilities(model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Tensor:
    """Class probabilities, shape (B, K)."""
    results = model(inputs=inputs, data_samples=[sample.new() for sample in data_samples], mode='predict')
    return torch.stack([result.pred_score for result in results]).float()
