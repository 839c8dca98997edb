"""Scores of image classifiers: EVS, DS (Huang et al. 2024, arXiv 2306.07215) and others on class probabilities."""

from typing import Any, Dict, List, Optional, Sequence, Union

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import ClassifierAdapter, ClassifierOutputs
from mmacs.coreset.scoring.probabilities import (
    disagreement,
    entropy_score,
    keep_probabilities,
    kept_logits,
    last_layer_gradient_norm,
    margin_score,
    relative_entropy,
)
from mmacs.coreset.scoring.scorers.base import CLASSIFIER, Scorer
from mmacs.coreset.scoring.scores import error_vector_score, reducible_error
from mmacs.utils.checks import require_whole
from mmacs.utils.errors import MmacsError
from mmacs.utils.registry import SCORERS

# Up to how many classes all of the teacher's probabilities are kept, and how many are kept beyond.
_FEW_CLASSES, _LARGEST = 128, 32


@SCORERS.register_module()
class ClassificationScorer(Scorer):
    """Scores on the class probabilities of an MMPreTrain classifier with one label per image.

    EVS and DS lie in [0, sqrt(2)], so that ACS mixes them as they are (``normalisation='none'``). ``kl``, ``grand`` and
    ``loss`` have no upper bound. By default all are ranked.

    Args:
        num_probs (int, optional): How many of the teacher's probabilities are kept of each image, the largest; see
            :func:`mmacs.coreset.scoring.probabilities.disagreement` for what is lost. None keeps all of up to 128
            classes, and 32 of more.

    Raises:
        MmacsError: If ``num_probs`` is not a positive integer.
    """

    kind = CLASSIFIER
    columns = {
        'evs': '|| p_q - y ||, how wrong the quantized model is (ACS); the same as EL2N',
        'ds': '|| p_q - p_T ||, how far quantization moved the prediction (ACS)',
        'kl': 'KL(p_q || p_T), relative entropy (QuaRC), in nats',
        'margin': '1 - (p_1 - p_2), how close the two likeliest classes are',
        'entropy': 'entropy of p_q, in nats',
        'grand': 'norm of the gradient of the loss at the last layer (GraNd)',
        'loss': 'cross-entropy, in nats',
        'correct': '1 where the likeliest class is the label, else 0; for counting forgetting events',
        'teacher_error': '|| p_T - y ||, how wrong the teacher is',
        'reducible_error': 'evs - teacher_error, the part of the error that quantization brought (after RHO-LOSS)',
    }
    teacher_columns = frozenset({'ds', 'kl', 'teacher_error', 'reducible_error'})
    kept_columns = frozenset({'teacher_error'})
    soft_label_columns = frozenset({'ds', 'kl'})
    training_columns = frozenset({'evs', 'margin', 'entropy', 'loss', 'correct'})
    weights = {'reducible_error': 'beta', 'ds': '1 - beta'}

    def __init__(self, num_probs: Optional[int] = None) -> None:
        if num_probs is not None:
            require_whole('num_probs', num_probs)
        self.num_probs = num_probs

    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """Require an MMPreTrain classifier, see :meth:`Scorer.check`."""
        super().check(model, columns)
        adapter = adapter_of(model)
        if not isinstance(adapter, ClassifierAdapter) or not adapter.scorable:
            raise MmacsError(f'ClassificationScorer scores MMPreTrain classifiers, not {type(model).__name__}')

    def hooked_module(self, model: nn.Module) -> Optional[nn.Module]:
        """See :meth:`Scorer.hooked_module`: the head, if it gives the same logits in training."""
        return adapter_of(model).hooked_module()

    def outputs(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> ClassifierOutputs:
        """See :meth:`Scorer.outputs`."""
        return adapter_of(model).outputs(inputs, data_samples)

    def teacher_outputs(
        self, teacher: nn.Module, outputs: ClassifierOutputs, data_samples: List[Any], columns: Sequence[str]
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.teacher_outputs`.

        Returns:
            Dict[str, Tensor]: For ``teacher_error`` and ``reducible_error`` the former, shape (B,); for ``ds`` and
            ``kl`` what :func:`mmacs.coreset.scoring.probabilities.keep_probabilities` gives.
        """
        probs, kept = outputs.logits.softmax(1), {}
        if {'teacher_error', 'reducible_error'} & set(columns):
            kept['teacher_error'] = error_vector_score(probs, _labels(data_samples, probs.device))
        if self.soft_label_columns & set(columns):
            count = self.num_probs or (_LARGEST if probs.shape[1] > _FEW_CLASSES else _FEW_CLASSES)
            kept.update(keep_probabilities(probs, count))
        return kept

    def teacher_logits(self, teacher_outputs: Dict[str, Tensor], num_classes: int) -> Tensor:
        """See :meth:`Scorer.teacher_logits`; classes that were not kept have equal ones."""
        return kept_logits(teacher_outputs, num_classes)

    def score(
        self,
        model: nn.Module,
        outputs: Union[ClassifierOutputs, Tensor],
        data_samples: List[Any],
        teacher_outputs: Dict[str, Tensor],
        columns: Sequence[str],
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.score`; all columns but those of the teacher and ``grand`` also from logits alone."""
        if not isinstance(outputs, ClassifierOutputs):
            outputs = ClassifierOutputs(adapter_of(model).logits(outputs), None)
        logits, features = outputs
        if 'grand' in columns and features is None:
            raise MmacsError(
                f'the column grand needs one vector of features per image, which {type(model.head).__name__} '
                f'does not have or training does not hand on; leave the column out'
            )
        labels = _labels(data_samples, logits.device)
        probs = logits.softmax(1)
        compute = {
            'evs': lambda: error_vector_score(probs, labels),
            'ds': lambda: disagreement(probs, teacher_outputs),
            'kl': lambda: relative_entropy(probs, teacher_outputs),
            'margin': lambda: margin_score(probs),
            'entropy': lambda: entropy_score(probs),
            'grand': lambda: last_layer_gradient_norm(probs, labels, features.float()),
            'loss': lambda: cross_entropy(logits, labels, reduction='none'),
            'correct': lambda: (logits.argmax(1) == labels).float(),
            'teacher_error': lambda: teacher_outputs['teacher_error'],
            'reducible_error': lambda: reducible_error(
                error_vector_score(probs, labels), teacher_outputs['teacher_error']
            ),
        }
        return {column: compute[column]() for column in columns}


def _labels(data_samples: List[Any], device: torch.device) -> Tensor:
    """Returns the images' labels, int64, shape (B,)."""
    labels = [sample.get('gt_label') for sample in data_samples]
    if any(label is None or label.numel() != 1 for label in labels):
        raise MmacsError('ClassificationScorer needs exactly one label per image, which this data set does not have')
    return torch.cat(labels).to(device)
