"""What the scorers of all detectors share: candidates, their errors, their disagreement with the teacher's.

Our reading of ACS (Huang et al. 2024, arXiv 2306.07215), for which there is no public code for detectors.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmacs.adapters.base import adapter_of
from mmacs.coreset.scoring.scorers.base import Scorer
from mmacs.coreset.scoring.scorers.boxes import bbox_overlaps
from mmacs.coreset.scoring.scorers.detection_metrics import (
    Boxes,
    Matches,
    average_precision,
    match,
    precision_and_recall,
)
from mmacs.coreset.scoring.scorers.detection_scores import (
    NUM_CLASSES_KEPT,
    Candidates,
    at,
    disagreement,
    error_vectors,
    most_confident,
    most_probable_classes,
)
from mmacs.coreset.scoring.scores import reducible_error
from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError


class DetectionScorer(Scorer):
    """Scores per object first, then per image: more objects of the same kind don't change a score.

    A score may nevertheless go with the number of objects where crowded images are harder, as those of small objects.

    A candidate is a vector of K class probabilities and a box. Class errors are L2 distances between such vectors, box
    errors ``1 - IoU``: the classifier's scores with a box term added.

    **evs**: each ground-truth object takes the candidate of least ``|| p - onehot || + (1 - IoU)``, at most 2, which
    stands for no detection. That error is averaged over the objects detected at one level, then over the levels that
    have any. Added to it is the background error: ``|| p ||`` averaged over the ``num_hard_negatives`` most confident
    candidates that overlap no object (IoU below 0.5).

    **ds**: a mean over candidates a of the teacher and of the quantized model,
    ``sum w_a (|| p_q - p_T || + c_T (1 - IoU(b_q, b_T))) / sum w_a``, weighted by either's confidence,
    ``w_a = max(c_q, c_T)``. They are the ``num_candidates`` most confident ones per level of either model, with their
    5 most probable classes; all else that the teacher predicts counts as silent: probability 0, no box.

    **sufficiency**, after AFSS: ``1 - min(precision, recall)`` of the detections at an IoU of 0.5.

    **metric_gap**, after DetGain: the teacher's AP on the image minus the quantized model's, see
    :func:`~mmacs.coreset.scoring.scorers.detection_metrics.average_precision`.

    **teacher_error**: the teacher's own evs.

    **reducible_error**: evs - teacher_error, the part of the error that quantization brought, see
    :func:`~mmacs.coreset.scoring.scores.reducible_error`. What the teacher gets wrong as well, such as objects that
    nobody annotated, adds nothing to it. It takes the place of evs in the default importance: by evs a detector that is
    blind to most objects trains on what it will never see. A subclass with another ``evs`` says which it wants, by
    :attr:`weights`.

    Images without objects have the background error alone; their ``sufficiency`` is 1 if anything is detected, else 0;
    their AP is 1 minus the surest detection's score. Crowd boxes and ignored boxes are not objects, and what lies at
    least half inside them is neither background nor a false detection.

    Args:
        num_candidates (int): Candidates kept of the teacher per level.
        num_hard_negatives (int): Defaults to 32.
        score_threshold (float): Detections of lower score don't count for ``sufficiency``. Defaults to 0.3.

    Raises:
        MmacsError: If an argument is out of range.
    """

    columns = {
        'evs': 'distance of the predictions from the ground truth',
        'ds': "distance of the predictions from the teacher's",
        'sufficiency': '1 - min(precision, recall) of the detections',
        'metric_gap': "the teacher's AP on the image minus the quantized model's",
        'teacher_error': "distance of the teacher's predictions from the ground truth",
        'reducible_error': 'evs - teacher_error, the part of the error that quantization brought',
    }
    teacher_columns = frozenset({'ds', 'metric_gap', 'teacher_error', 'reducible_error'})
    kept_columns = frozenset({'teacher_error'})
    candidate_columns = ('evs', 'ds', 'teacher_error', 'reducible_error')  # those that need candidates
    weights = {'reducible_error': 'beta', 'ds': '1 - beta'}
    normalisation = 'stratified_rank'

    def __init__(self, num_candidates: int = 100, num_hard_negatives: int = 32, score_threshold: float = 0.3) -> None:
        for name, value in (('num_candidates', num_candidates), ('num_hard_negatives', num_hard_negatives)):
            require_whole(name, value)
        if not is_number(score_threshold) or not 0 <= score_threshold <= 1:
            raise MmacsError(f'score_threshold must lie in [0, 1], got {score_threshold!r}')
        self.num_candidates = num_candidates
        self.num_hard_negatives = num_hard_negatives
        self.score_threshold = score_threshold

    # ---------------------------------------------------------------- what the kinds of detectors differ in
    def has_candidates(self, model: nn.Module) -> bool:
        """Returns whether :meth:`candidates` knows this model; if not, only columns that need none can be computed."""
        return True

    def candidates(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> Candidates:
        """All candidates of a batch, from what :meth:`outputs` gave."""
        raise NotImplementedError

    def detections(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> List[Any]:
        """The detector's own results after all its postprocessing: per image ``bboxes``, ``scores``, ``labels``."""
        raise NotImplementedError

    def at_teachers(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        own: Candidates,
        teacher: 'Kept',
        teacher_outputs: Dict[str, Tensor],
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Returns the quantized model's candidates that correspond to the teacher's, and those of its own that don't.

        Returns:
            Tuple[Tensor, Tensor, Tensor]: Probabilities (B, M, K) and boxes (B, M, 4) at the M kept places; and which
            of ``own`` the teacher is silent about, bool, (B, C).
        """
        raise NotImplementedError

    def keep(self, outputs: Any, chosen: Tensor) -> Dict[str, Tensor]:
        """Further tensors to keep of the teacher's chosen candidates, see :func:`most_confident`."""
        return {}

    # ---------------------------------------------------------------- the interface
    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """See :meth:`Scorer.check`."""
        super().check(model, columns)
        impossible = [column for column in columns if column in self.candidate_columns]
        if impossible and not self.has_candidates(model):
            head = type(model.bbox_head).__name__
            raise MmacsError(
                f'{type(self).__name__} cannot decode the boxes of {head}, so that of its columns only '
                f'{", ".join(c for c in self.columns if c not in self.candidate_columns)} can be computed'
            )

    def hooked_module(self, model: nn.Module) -> Optional[nn.Module]:
        """See :meth:`Scorer.hooked_module`: the head, if it gives the same outputs in training."""
        return adapter_of(model).hooked_module()

    def outputs(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Any:
        """See :meth:`Scorer.outputs`."""
        return adapter_of(model).outputs(inputs, data_samples)

    def teacher_outputs(
        self, teacher: nn.Module, outputs: Any, data_samples: List[Any], columns: Sequence[str]
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.teacher_outputs`.

        Returns:
            Dict[str, Tensor]: For ``metric_gap`` ``teacher_ap`` (B,), float32; for ``teacher_error`` and
            ``reducible_error`` the former (B,), float32; for ``ds`` of the kept candidates ``key`` (B, M), int32, -1
            where a level has fewer, ``classes`` (B, M, 5), int16, their probabilities ``probs`` (B, M, 5), float16,
            ``boxes`` (B, M, 4), float32, and what :meth:`keep` gives. M is ``num_candidates`` for each level.
        """
        kept = {}
        if 'metric_gap' in columns:
            matches, device = self._matches(teacher, outputs, data_samples)
            kept['teacher_ap'] = torch.tensor(list(map(average_precision, matches)), device=device)
        errors = {'teacher_error', 'reducible_error'} & set(columns)
        if errors or 'ds' in columns:
            found = self.candidates(teacher, outputs, data_samples)
        if errors:
            kept['teacher_error'] = self._errors(found, data_samples)
        if 'ds' in columns:
            chosen = most_confident(found, self.num_candidates)
            probs, classes = at(found.probs, chosen).topk(min(NUM_CLASSES_KEPT, found.probs.shape[-1]), dim=-1)
            kept.update(
                key=at(found.key, chosen).masked_fill(chosen < 0, -1).int(),
                classes=classes.short(),
                probs=probs.half(),
                boxes=at(found.boxes, chosen),
                **self.keep(outputs, chosen),
            )
        return kept

    def score(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        teacher_outputs: Dict[str, Tensor],
        columns: Sequence[str],
    ) -> Dict[str, Tensor]:
        """See :meth:`Scorer.score`."""
        scores = {}
        errors = {'evs', 'reducible_error'} & set(columns)
        if errors or 'ds' in columns:
            found = self.candidates(model, outputs, data_samples)
        if errors:
            evs = self._errors(found, data_samples)
            if 'evs' in columns:
                scores['evs'] = evs
            if 'reducible_error' in columns:
                scores['reducible_error'] = reducible_error(evs, teacher_outputs['teacher_error'])
        if 'ds' in columns:
            scores['ds'] = self._disagreement(model, outputs, data_samples, found, teacher_outputs)
        if {'sufficiency', 'metric_gap'} & set(columns):
            matches, device = self._matches(model, outputs, data_samples)
        if 'sufficiency' in columns:
            worse = [min(precision_and_recall(image, self.score_threshold)) for image in matches]
            scores['sufficiency'] = 1 - torch.tensor(worse, device=device)
        if 'metric_gap' in columns:
            ap = torch.tensor(list(map(average_precision, matches)), device=device)
            scores['metric_gap'] = teacher_outputs['teacher_ap'] - ap
        if 'teacher_error' in columns:
            scores['teacher_error'] = teacher_outputs['teacher_error']
        return scores

    # ---------------------------------------------------------------- parts
    def _errors(self, found: Candidates, data_samples: List[Any]) -> Tensor:
        objects = [sample.gt_instances.bboxes for sample in data_samples]
        labels = [sample.gt_instances.labels for sample in data_samples]
        ignored = [ignored_boxes(sample) for sample in data_samples]
        return error_vectors(
            found,
            pad_sequence(objects, batch_first=True).float(),
            pad_sequence(labels, batch_first=True, padding_value=-1),
            pad_sequence(ignored, batch_first=True).float(),
            self.num_hard_negatives,
        )

    def _matches(self, model: nn.Module, outputs: Any, data_samples: List[Any]) -> Tuple[List[Matches], torch.device]:
        """Each image's detections matched to its objects, on the CPU; and the device that they came from."""
        results = self.detections(model, outputs, data_samples)
        found = _to_cpu([_table(result.bboxes, result.labels, result.scores) for result in results])
        truths = [sample.gt_instances for sample in data_samples]
        objects = _to_cpu([_table(truth.bboxes, truth.labels) for truth in truths])
        ignored = _to_cpu([ignored_boxes(sample) for sample in data_samples])
        matches = []
        for rows, truth, regions in zip(found, objects, ignored):
            rows = rows[np.argsort(-rows[:, 5], kind='stable')]
            matches.append(match(Boxes(rows[:, :4], rows[:, 4], rows[:, 5]), Boxes(truth[:, :4], truth[:, 4]), regions))
        return matches, results[0].scores.device

    def _disagreement(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        found: Candidates,
        teacher_outputs: Dict[str, Tensor],
    ) -> Tensor:
        teacher = Kept.of(teacher_outputs, found.probs.shape[-1])
        probs, boxes, alone = self.at_teachers(model, outputs, data_samples, found, teacher, teacher_outputs)
        chosen = most_confident(found, self.num_candidates)
        own = most_probable_classes(at(found.probs, chosen))
        alone = at(alone, chosen) & (chosen >= 0)
        overlap = bbox_overlaps(boxes, teacher.boxes, is_aligned=True)
        return disagreement(
            torch.cat([most_probable_classes(probs), own], 1),
            torch.cat([teacher.probs, torch.zeros_like(own)], 1),
            torch.cat([overlap, overlap.new_zeros(alone.shape)], 1),
            torch.cat([teacher.key >= 0, alone], 1),
        )


class Kept(NamedTuple):
    """The teacher's candidates; M = levels * num_candidates."""

    key: Tensor  # (B, M), int64, -1 where there is none
    probs: Tensor  # (B, M, K)
    boxes: Tensor  # (B, M, 4)

    @classmethod
    def of(cls, teacher_outputs: Dict[str, Tensor], num_classes: int) -> 'Kept':
        """Unpacks what was kept of the teacher."""
        key, kept = teacher_outputs['key'].long(), teacher_outputs['probs'].float()
        probs = kept.new_zeros(*key.shape, num_classes).scatter_(-1, teacher_outputs['classes'].long(), kept)
        return cls(key, probs, teacher_outputs['boxes'])


def ignored_boxes(sample: Any) -> Tensor:
    """Returns the boxes of crowds and ignored regions of an image, shape (I, 4)."""
    ignored = sample.get('ignored_instances')
    return sample.gt_instances.bboxes[:0] if ignored is None else ignored.bboxes


def _table(boxes: Tensor, *columns: Tensor) -> Tensor:
    """Returns the boxes (N, 4) and further columns (N,) side by side, float32."""
    return torch.cat([boxes.float(), *(column[:, None].float() for column in columns)], 1)


def _to_cpu(tables: Sequence[Tensor]) -> List[np.ndarray]:
    """Bring the tables of a batch to the CPU in one go."""
    together = torch.cat(list(tables)).detach().float().cpu().numpy()
    return np.split(together, np.cumsum([len(table) for table in tables])[:-1])
