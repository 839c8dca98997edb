"""What an exported model gives: detections, or what its head predicts."""

from typing import Optional

from torch import nn

from mmacs.adapters.base import adapter_of
from mmacs.adapters.kinds import DenseAdapter, DetectionRules, QueryAdapter, TwoStageAdapter
from mmacs.deploy.detection.detectors import OneStage, Queries, TwoStage
from mmacs.deploy.detection.raw import RawOutputs, RawTwoStage
from mmacs.utils.errors import MmacsError

MAX_DETECTIONS = 300  # per image, where a model's settings give no limit


def detector_outputs(
    model: nn.Module,
    *,
    max_detections: Optional[int] = None,
    score_threshold: Optional[float] = None,
    class_agnostic: bool = False,
    max_candidates: Optional[int] = None,
) -> nn.Module:
    """Put a detector's postprocessing into a module whose results have one size, whatever is in the images.

    It detects what the model's own ``predict`` does, by the rules of its ``test_cfg``.

    Args:
        model (nn.Module): A detector in eval mode; simulated, or made of export modules.
        max_detections (int, optional): Rows per image, M. None for the model's ``max_per_img``, or 300.
        score_threshold (float, optional): None for the model's ``score_thr``.
        class_agnostic (bool): Whether boxes of all classes compete. Defaults to what the model's settings say.
        max_candidates (int, optional): Candidates before suppression, per level where there are levels. None for the
            model's ``nms_pre``; where it has none, as YOLOX and RoI heads, all that reach the score threshold.

    Returns:
        nn.Module: Its ``forward`` takes normalised images (B, 3, H, W), of which nothing is padding, and returns
        ``boxes`` (B, M, 4), x1, y1, x2, y2 in pixels of the input, ``scores`` (B, M), best first, and ``labels``
        (B, M), int64. Rows that stand for nothing are 0.

    Raises:
        MmacsError: If it is not known how the model makes detections, or a setting has no effect on it.
    """
    adapter = adapter_of(model)

    def adjusted(rules: DetectionRules) -> DetectionRules:
        return rules._replace(
            max_detections=max_detections or rules.max_detections or MAX_DETECTIONS,
            score_threshold=rules.score_threshold if score_threshold is None else score_threshold,
            class_agnostic=class_agnostic or rules.class_agnostic,
            max_candidates=max_candidates or rules.max_candidates,
        )

    if isinstance(adapter, DenseAdapter):
        return OneStage(adapter, adjusted(adapter.rules()))
    if isinstance(adapter, TwoStageAdapter):
        return TwoStage(adapter, adjusted(adapter.rules()), adapter.proposal_rules())
    if isinstance(adapter, QueryAdapter) and adapter.scorable:
        if class_agnostic or max_candidates:
            name = 'class_agnostic' if class_agnostic else 'max_candidates'
            raise MmacsError(f'{name} is for suppression, which a {type(model).__name__} does without: leave it out')
        return Queries(adapter, max_detections or adapter.max_detections, score_threshold)
    raise MmacsError(f'{type(model).__name__} is no detector whose boxes can be exported')


def raw_outputs(model: nn.Module) -> RawOutputs:
    """Returns a module that gives what the model's head predicts, see :meth:`mmacs.adapters.base.Adapter.raw`.

    Args:
        model (nn.Module): A classifier or detector in eval mode; simulated, or made of export modules.

    Raises:
        MmacsError: If the model is neither.
    """
    adapter = adapter_of(model)
    if adapter is None:
        raise MmacsError(f'{type(model).__name__} is no classifier or detector that is known here')
    if isinstance(adapter, TwoStageAdapter):
        return RawTwoStage(TwoStage(adapter, adapter.rules(), adapter.proposal_rules()))
    return RawOutputs(adapter)
