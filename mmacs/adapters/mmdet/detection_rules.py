"""How MMDetection's heads make detections of what they predict, read from their test settings."""

from typing import Any, Dict, Mapping, Optional

from mmdet.models import SingleStageDetector, TwoStageDetector
from mmdet.models.dense_heads import FoveaHead, GFLHead, RepPointsHead, RPNHead, TOODHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads import DynamicRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import nn

from mmacs.adapters.kinds import DetectionRules
from mmacs.adapters.mmdet.dense_boxes import is_decodable
from mmacs.adapters.mmdet.roi_features import knows_extractor
from mmacs.utils.errors import MmacsError

# whose own code for one image does what that of all does, in other words
_LIKE_ALL = (BaseDenseHead, GFLHead, TOODHead, RepPointsHead, FoveaHead)
_NEVER_CLIPS = (TOODHead, YOLOXHead)


def dense_rules(model: nn.Module) -> DetectionRules:
    """Returns the rules of a one-stage detector.

    Args:
        model (nn.Module): With a dense ``bbox_head``.

    Raises:
        MmacsError: If its head makes detections in a way of its own.
    """
    head = model.bbox_head
    if not _inherits(model, 'predict', SingleStageDetector) or not is_decodable(head):
        raise _unknown(model, head)
    if _inherits(head, 'predict', BaseDenseHead) and _inherits(head, 'predict_by_feat', YOLOXHead):
        cfg = _settings(head)
        return DetectionRules(
            **_suppression(cfg),
            score_threshold=cfg.get('score_thr', 0),
            takes_threshold=True,
            best_class=True,
            margin=None,
        )
    known = all(_inherits(head, name, BaseDenseHead) for name in ('predict', 'predict_by_feat', '_bbox_post_process'))
    if not known or not _inherits(head, '_predict_by_feat_single', *_LIKE_ALL):
        raise _unknown(model, head)
    return _rules_of_levels(head, score_threshold=_settings(head).get('score_thr', 0))


def proposal_rules(model: nn.Module) -> DetectionRules:
    """Returns the rules of a two-stage detector's RPN.

    Args:
        model (nn.Module): With an ``rpn_head``.

    Raises:
        MmacsError: If it makes proposals in a way of its own.
    """
    head = getattr(model, 'rpn_head', None)
    known = all(_inherits(head, name, RPNHead) for name in ('_predict_by_feat_single', '_bbox_post_process'))
    if not known or not all(_inherits(head, name, BaseDenseHead) for name in ('predict', 'predict_by_feat')):
        raise _unknown(model, head)
    rules = _rules_of_levels(head, score_threshold=None)
    if rules.max_detections is None:
        raise MmacsError(
            f'test_cfg of {type(head).__name__} has no max_per_img, which says how many proposals there are'
        )
    return rules


def roi_rules(model: nn.Module) -> DetectionRules:
    """Returns the rules of a two-stage detector's RoI head.

    Args:
        model (nn.Module): With a ``roi_head``.

    Raises:
        MmacsError: If it makes detections in a way of its own, or makes masks.
    """
    roi_head = model.roi_head
    head = getattr(roi_head, 'bbox_head', None)
    known = _inherits(model, 'predict', TwoStageDetector) and type(roi_head) in (StandardRoIHead, DynamicRoIHead)
    known = known and all(_inherits(head, name, BBoxHead) for name in ('predict_by_feat', '_predict_by_feat_single'))
    known = known and head.with_cls and head.with_reg and not head.custom_cls_channels
    if not known or roi_head.with_mask or not knows_extractor(roi_head.bbox_roi_extractor):
        raise _unknown(model, roi_head)
    cfg = _settings(roi_head)
    margin = 0 if head.bbox_coder.clip_border else None
    return DetectionRules(**_suppression(cfg), score_threshold=cfg.get('score_thr', 0), margin=margin)


def _rules_of_levels(head: nn.Module, score_threshold: Optional[float]) -> DetectionRules:
    cfg = _settings(head)
    if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
        raise MmacsError(f'{type(head.loss_cls).__name__} has an activation of its own, which cannot be exported')
    max_candidates, min_size = cfg.get('nms_pre', -1), cfg.get('min_bbox_size', -1)
    return DetectionRules(
        **_suppression(cfg),
        score_threshold=score_threshold,
        max_candidates=max_candidates if max_candidates > 0 else None,
        min_size=min_size if min_size >= 0 else None,
        margin=_margin(head),
    )


def _margin(head: nn.Module) -> Optional[int]:
    if isinstance(head, FoveaHead):
        return 1
    clips = getattr(getattr(head, 'bbox_coder', None), 'clip_border', True)
    return 0 if clips and not isinstance(head, _NEVER_CLIPS) else None


def _settings(head: nn.Module) -> Mapping[str, Any]:
    if not getattr(head, 'test_cfg', None):
        raise MmacsError(
            f'{type(head).__name__} has no test_cfg, which says how it makes detections: give the model one'
        )
    return head.test_cfg


def _suppression(cfg: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns the settings of non-maximum suppression and how many detections are left."""
    nms = dict(cfg.get('nms') or {})
    nms.pop('split_thr', None)  # from how many boxes on it is done class by class: the result is the same
    iou_threshold, class_agnostic = nms.pop('iou_threshold', nms.pop('iou_thr', None)), nms.pop('class_agnostic', False)
    if nms.pop('type', 'nms') != 'nms' or nms or iou_threshold is None:
        raise MmacsError(
            f"test_cfg's nms={dict(cfg.get('nms') or {})} cannot be exported, only "
            "dict(type='nms', iou_threshold=..., class_agnostic=...)"
        )
    max_detections = cfg.get('max_per_img', -1)
    return dict(
        iou_threshold=iou_threshold,
        class_agnostic=class_agnostic,
        max_detections=max_detections if max_detections > 0 else None,
    )


def _inherits(owner: Any, name: str, *kinds: type) -> bool:
    """Returns whether a method is one of those that these classes have."""
    method = getattr(type(owner), name, None)
    return method is not None and method in [getattr(kind, name, None) for kind in kinds]


def _unknown(model: nn.Module, part: Any) -> MmacsError:
    return MmacsError(
        f'how {type(model).__name__} with {type(part).__name__} makes detections is not known here, so that its boxes '
        f'cannot be exported; its raw outputs can'
    )
