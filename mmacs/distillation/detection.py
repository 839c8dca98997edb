"""MMDetection's detectors: one-stage, two-stage and query-based."""

from typing import Any, Dict, List, Tuple

import torch
from mmdet.models import CascadeRoIHead, DetectionTransformer, SingleStageDetector, StandardRoIHead, TwoStageDetector
from mmdet.models.dense_heads import GuidedAnchorHead, SABLRetinaHead, TOODHead
from mmdet.models.roi_heads import DynamicRoIHead
from torch import Tensor, nn

from mmacs.distillation.families import Calls, Family, require_same_shape, unsupported
from mmacs.distillation.losses import Predictions, detection_losses
from mmacs.utils.errors import MmacsError

# Heads whose outputs are not logits and coded boxes at fixed places.
_OTHER_OUTPUTS = (GuidedAnchorHead, SABLRetinaHead, TOODHead)


class _Detector(Family):
    def predictions(self, model: nn.Module, calls: Calls) -> List[Predictions]:
        """What the recorded outputs of the heads predict, level by level."""
        raise NotImplementedError

    def losses(
        self, student: nn.Module, ours: Calls, teacher: nn.Module, theirs: Calls, temperature: float, form: str
    ) -> Dict[str, Tensor]:
        """See :func:`~mmacs.distillation.losses.detection_losses`."""
        student_predictions, teacher_predictions = self.predictions(student, ours), self.predictions(teacher, theirs)
        if len(student_predictions) != len(teacher_predictions):
            raise MmacsError(
                f'the teacher predicts at {len(teacher_predictions)} levels, the student at {len(student_predictions)}'
            )
        for own, other in zip(student_predictions, teacher_predictions):
            require_same_shape('class logits', own.logits, other.logits)
            require_same_shape('box predictions', own.codes, other.codes)
        class_loss, box_loss = detection_losses(student_predictions, teacher_predictions, temperature, form)
        return {'loss_distill_cls': class_loss, 'loss_distill_box': box_loss}


class OneStage(_Detector):
    """Detectors with a dense head that predicts at every place of every pyramid level; also a lone RPN."""

    heads = ('bbox_head',)

    def run_teacher(self, teacher: nn.Module, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """See :meth:`Family.run_teacher`."""
        teacher.bbox_head(teacher.extract_feat(inputs))

    def predictions(self, model: nn.Module, calls: Calls) -> List[Predictions]:
        """See :func:`dense_predictions`."""
        return dense_predictions(model.bbox_head, calls['bbox_head'][0].output)


class TwoStage(_Detector):
    """Faster R-CNN and Cascade R-CNN: the RPN, and the box head of each stage at the student's RoIs."""

    def __init__(self, model: nn.Module) -> None:
        self.cascaded = isinstance(model.roi_head, CascadeRoIHead)
        stages = [f'.{stage}' for stage in range(model.roi_head.num_stages)] if self.cascaded else ['']
        self.extractors = [f'roi_head.bbox_roi_extractor{stage}' for stage in stages]
        self.box_heads = [f'roi_head.bbox_head{stage}' for stage in stages]
        self.heads = ['rpn_head', *self.extractors, *self.box_heads]
        for name in self.box_heads:
            head = model.get_submodule(name)
            if head.custom_cls_channels or not (head.with_cls and head.with_reg):
                raise unsupported(model)

    def run_teacher(self, teacher: nn.Module, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """See :meth:`Family.run_teacher`."""
        features = teacher.extract_feat(inputs)
        teacher.rpn_head(features)
        for stage, name in enumerate(self.extractors):
            rois = calls[name][0].args[1]
            teacher.roi_head._bbox_forward(*([stage] if self.cascaded else []), features, rois)

    def predictions(self, model: nn.Module, calls: Calls) -> List[Predictions]:
        """The levels of the RPN, then the stages."""
        found = dense_predictions(model.rpn_head, calls['rpn_head'][0].output)
        for name in self.box_heads:
            head, (logits, codes) = model.get_submodule(name), calls[name][0].output
            if not head.reg_class_agnostic:
                codes = codes.reshape(len(codes), head.num_classes, -1)
            found.append(Predictions(logits, codes, getattr(head.loss_cls, 'use_sigmoid', False)))
        return found


class Queries(_Detector):
    """DETR, Conditional DETR, DAB-DETR and Deformable DETR: the last decoder layer, query by query."""

    heads = ('bbox_head',)

    def run_teacher(self, teacher: nn.Module, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """See :meth:`Family.run_teacher`."""
        teacher.bbox_head(**teacher.forward_transformer(teacher.extract_feat(inputs), data_samples))

    def predictions(self, model: nn.Module, calls: Calls) -> List[Predictions]:
        """All queries of all images as one level."""
        layers_logits, layers_boxes = calls['bbox_head'][0].output
        sigmoid = model.bbox_head.loss_cls.use_sigmoid
        return [Predictions(layers_logits[-1].flatten(0, 1), layers_boxes[-1].flatten(0, 1), sigmoid)]


def detector_family(model: nn.Module, same_start: bool) -> Family:
    """The family of a detector, see :func:`~mmacs.distillation.families.family_of`."""
    if isinstance(model, DetectionTransformer):
        if hasattr(model, 'dn_query_generator') or getattr(model, 'as_two_stage', False):
            raise MmacsError(
                f'DistillationHook cannot distil {type(model).__name__}: its queries are drawn from denoising or from '
                f"the encoder's proposals, so the student's and the teacher's don't correspond"
            )
        if not same_start:
            raise MmacsError(
                "DistillationHook cannot distil a DETR from another model, whose queries don't correspond to the "
                "student's: leave out teacher"
            )
        return Queries()
    if isinstance(model, TwoStageDetector) and model.with_rpn and model.with_roi_head:
        if type(model.roi_head) in (StandardRoIHead, DynamicRoIHead, CascadeRoIHead) and _is_dense(model.rpn_head):
            return TwoStage(model)
    elif isinstance(model, SingleStageDetector) and not hasattr(model, 'language_model') and _is_dense(model.bbox_head):
        return OneStage()
    raise unsupported(model)


def _is_dense(head: nn.Module) -> bool:
    return (
        hasattr(head, 'cls_out_channels') and hasattr(head, 'use_sigmoid_cls') and not isinstance(head, _OTHER_OUTPUTS)
    )


def dense_predictions(head: nn.Module, outputs: Tuple[List[Tensor], ...]) -> List[Predictions]:
    """Sort the outputs of a dense head by place.

    Args:
        head (nn.Module): An MMDetection dense head.
        outputs (tuple): What its ``forward`` returns: per level class logits (B, A K, H, W), box codes (B, A D, H, W)
            and further maps. Of these, A channels are a quality, as many as box codes are refined boxes, and any
            others, such as mask coefficients, are left out.

    Returns:
        List[Predictions]: Per level, N = B H W A places. Distributions over distances, as GFL predicts, become their
        expectations.
    """
    levels = []
    for logits, codes, *further in zip(*outputs):
        num_priors = logits.shape[1] // head.cls_out_channels
        boxes = [codes] + [maps for maps in further if maps.shape[1] == codes.shape[1] != num_priors]
        qualities = [maps for maps in further if maps.shape[1] == num_priors]
        flat = [_by_place(maps, num_priors) for maps in boxes]
        if hasattr(head, 'integral'):
            flat = [head.integral(maps) for maps in flat]
        quality = _by_place(qualities[0], num_priors).squeeze(1) if qualities else None
        levels.append(Predictions(_by_place(logits, num_priors), torch.cat(flat, -1), head.use_sigmoid_cls, quality))
    return levels


def _by_place(maps: Tensor, num_priors: int) -> Tensor:
    """(B, A D, H, W) to (B H W A, D), float32."""
    batch, _, height, width = maps.shape
    return maps.float().permute(0, 2, 3, 1).reshape(batch * height * width * num_priors, -1)
