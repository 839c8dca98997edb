from importlib.util import find_spec

from mmacs.coreset.scorers.base import Scorer
from mmacs.coreset.scorers.classification import ClassificationScorer

__all__ = ['ClassificationScorer', 'Scorer']

if find_spec('mmdet'):
    from mmacs.coreset.scorers.dense_detection import DenseDetectionScorer  # noqa: F401
    from mmacs.coreset.scorers.query import QueryDetectionScorer  # noqa: F401
    from mmacs.coreset.scorers.two_stage import TwoStageDetectionScorer  # noqa: F401

    __all__ += ['DenseDetectionScorer', 'QueryDetectionScorer', 'TwoStageDetectionScorer']
