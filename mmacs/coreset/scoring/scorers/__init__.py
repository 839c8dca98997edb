from importlib.util import find_spec

from mmacs.coreset.scoring.scorers.base import Scorer
from mmacs.coreset.scoring.scorers.classification import ClassificationScorer

__all__ = ['ClassificationScorer', 'Scorer']

if find_spec('mmdet'):
    from mmacs.coreset.scoring.scorers.dense_detection import DenseDetectionScorer  # noqa: F401
    from mmacs.coreset.scoring.scorers.query import QueryDetectionScorer  # noqa: F401
    from mmacs.coreset.scoring.scorers.two_stage import TwoStageDetectionScorer  # noqa: F401

    __all__ += ['DenseDetectionScorer', 'QueryDetectionScorer', 'TwoStageDetectionScorer']
