"""Scores of one-stage detectors, anchor-based and anchor-free."""

from typing import Any, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import DenseAdapter, DenseLevel
from mmacs.coreset.scoring.scorers.dense_places import best_anchors, probabilities_at
from mmacs.coreset.scoring.scorers.detection import DetectionScorer, Kept
from mmacs.coreset.scoring.scorers.detection_scores import Candidates
from mmacs.utils.errors import MmacsError
from mmacs.utils.nested import mapped, tensors_of
from mmacs.utils.registry import SCORERS


@SCORERS.register_module()
class DenseDetectionScorer(DetectionScorer):
    """Scores detectors with a dense head, see :class:`~mmacs.coreset.scoring.scorers.detection.DetectionScorer`.

    Candidates are the places of each pyramid level. Where a place has several anchors its most confident one stands
    for it: so crowded images keep their candidates from being many anchors of few objects, and scoring is cheap.
    Class probabilities have the head's centerness or objectness multiplied in.

    Two more columns take the head's own loss: **loss**, the sum of its terms for that image alone, and **grad**, the
    L2 norm of that sum's gradient at the head's outputs. Both follow the head's rules for images without objects and
    for crowds, and grow with the number of objects where the head's normaliser does not keep up. They are dear: the
    head's loss is called once per image, with its own assignment of objects.

    Args:
        num_candidates (int): Candidates kept of the teacher per level. Defaults to 32.
        num_hard_negatives (int): Defaults to 32.
        score_threshold (float): Defaults to 0.3.
    """

    columns = {
        **DetectionScorer.columns,
        'loss': "the head's own loss of the image alone",
        'grad': "norm of that loss's gradient at the head's outputs",
    }
    kept_columns = DetectionScorer.kept_columns
    training_columns = frozenset({'evs', 'loss', 'sufficiency'})

    def __init__(self, num_candidates: int = 32, num_hard_negatives: int = 32, score_threshold: float = 0.3) -> None:
        super().__init__(num_candidates, num_hard_negatives, score_threshold)

    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """Require a one-stage detector with a box head that sees nothing but images."""
        adapter = adapter_of(model)
        if not isinstance(adapter, DenseAdapter) or not adapter.scorable:
            raise MmacsError(
                f'DenseDetectionScorer scores one-stage detectors of classes in images, with a bbox_head, not '
                f'{type(model).__name__}; TwoStageDetectionScorer and QueryDetectionScorer score others'
            )
        dear = [column for column in columns if column in ('loss', 'grad')]
        if dear and not adapter.has_loss:
            raise MmacsError(
                f'{" and ".join(dear)} cannot be computed for {type(model.bbox_head).__name__}, whose loss needs the '
                f'outputs of the detector that it learns from; choose other columns'
            )
        super().check(model, columns)

    def has_candidates(self, model: nn.Module) -> bool:
        """Returns whether the head predicts boxes at anchors or points in a way that is known."""
        return adapter_of(model).decodable

    def candidates(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> Candidates:
        """See :meth:`DetectionScorer.candidates`."""
        adapter = adapter_of(model)
        levels = adapter.levels(mapped(Tensor.detach, outputs))
        keys = [best_anchors(level) for level in levels]
        numbers = torch.cat([key.new_full(key.shape[1:], number) for number, key in enumerate(keys)])
        return Candidates(*predictions_at(adapter, levels, keys), numbers, torch.cat(keys, 1), levels)

    def at_teachers(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        own: Candidates,
        teacher: Kept,
        teacher_outputs: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Returns the same anchors; the teacher is silent about the places that it kept none of."""
        levels, silent = own.source, []
        for level, keys in zip(levels, teacher.key.chunk(len(levels), 1)):
            places = keys.div(level.num_priors, rounding_mode='floor')
            is_silent = torch.ones(len(keys), level.num_places + 1, dtype=torch.bool, device=keys.device)
            silent.append(is_silent.scatter_(1, places % (level.num_places + 1), False)[:, :-1])  # -1 goes last
        probs, boxes = predictions_at(adapter_of(model), levels, teacher.key.clamp_min(0).chunk(len(levels), 1))
        return probs, boxes, torch.cat(silent, 1)

    def detections(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> List[Any]:
        """See :meth:`DetectionScorer.detections`."""
        return adapter_of(model).detections(outputs, data_samples)

    def score(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        teacher_outputs: Dict[str, Tensor],
        columns: Sequence[str],
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.score`."""
        scores = super().score(model, outputs, data_samples, teacher_outputs, columns)
        if {'loss', 'grad'} & set(columns):
            adapter = adapter_of(model)
            images = _images(adapter.loss_outputs(outputs), len(data_samples))
            found = [
                loss_and_gradient(adapter, image, sample, 'grad' in columns)
                for image, sample in zip(images, data_samples)
            ]
            dear = dict(zip(('loss', 'grad'), map(torch.stack, zip(*found))))
            scores.update({name: column for name, column in dear.items() if name in columns})
        return scores


def predictions_at(
    adapter: DenseAdapter, levels: Sequence[DenseLevel], anchors: Sequence[Tensor]
) -> Tuple[Tensor, Tensor]:
    """Class probabilities (B, M, K) and boxes (B, M, 4) of anchors; M are those of all levels, one after the other.

    Args:
        adapter (DenseAdapter): The detector.
        levels (Sequence[DenseLevel]): Its predictions.
        anchors (Sequence[Tensor]): Per level those chosen, int64, shape (B, M of the level).
    """
    probs = [probabilities_at(level, chosen) for level, chosen in zip(levels, anchors)]
    return torch.cat(probs, 1), adapter.decode(levels, anchors)


def loss_and_gradient(adapter: DenseAdapter, outputs: Any, sample: Any, with_gradient: bool) -> Tuple[Tensor, Tensor]:
    """Returns the head's loss of one image alone and the L2 norm of its gradient at the head's outputs.

    Args:
        adapter (DenseAdapter): The detector.
        outputs (Any): That image's part of what the loss takes, detached.
        sample (Any): The image's annotations.
        with_gradient (bool): Whether the norm is wanted; it is 0 otherwise.

    Returns:
        Tuple[Tensor, Tensor]: Two scalars.
    """
    leaves = [tensor.requires_grad_(with_gradient) for tensor in tensors_of(outputs)]
    with adapter.alone():
        with torch.set_grad_enabled(with_gradient):
            loss = adapter.loss(outputs, sample)
        if not with_gradient:
            return loss, loss.new_zeros(())
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    return loss.detach(), torch.stack(squares).sum().sqrt()


def _images(outputs: Any, count: int) -> Iterator[Any]:
    """Each image's part of nested outputs, detached, float32."""
    for i in range(count):
        yield mapped(lambda maps, image=slice(i, i + 1): maps[image].detach().float(), outputs)
