from mmacs.coreset.selectors.base import Selection, Selector, coreset_size, digest
from mmacs.coreset.selectors.class_balanced import ClassBalanced
from mmacs.coreset.selectors.gumbel_top_k import GumbelTopK
from mmacs.coreset.selectors.moderate import Moderate
from mmacs.coreset.selectors.soft_pruning import SoftPruning
from mmacs.coreset.selectors.stratified import Stratified
from mmacs.coreset.selectors.tiers import Tiers
from mmacs.coreset.selectors.top_k import TopK, top_k
from mmacs.coreset.selectors.uniform import Random

__all__ = [
    'ClassBalanced',
    'GumbelTopK',
    'Moderate',
    'Random',
    'Selection',
    'Selector',
    'SoftPruning',
    'Stratified',
    'Tiers',
    'TopK',
    'coreset_size',
    'digest',
    'top_k',
]
