from mmacs.coreset.scoring.scorers.base import Scorer
from mmacs.coreset.scoring.scorers.classification import ClassificationScorer
from mmacs.coreset.scoring.scorers.dense_detection import DenseDetectionScorer
from mmacs.coreset.scoring.scorers.query import QueryDetectionScorer
from mmacs.coreset.scoring.scorers.two_stage import TwoStageDetectionScorer

__all__ = [
    'ClassificationScorer',
    'DenseDetectionScorer',
    'QueryDetectionScorer',
    'Scorer',
    'TwoStageDetectionScorer',
]
