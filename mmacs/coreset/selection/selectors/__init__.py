from mmacs.coreset.selection.selectors.base import Selection, Selector, coreset_size, digest
from mmacs.coreset.selection.selectors.class_balanced import ClassBalanced
from mmacs.coreset.selection.selectors.gumbel_top_k import GumbelTopK
from mmacs.coreset.selection.selectors.moderate import Moderate
from mmacs.coreset.selection.selectors.soft_pruning import SoftPruning
from mmacs.coreset.selection.selectors.stratified import Stratified
from mmacs.coreset.selection.selectors.sweep import Sweep
from mmacs.coreset.selection.selectors.tiers import Tiers
from mmacs.coreset.selection.selectors.top_k import TopK, top_k
from mmacs.coreset.selection.selectors.uniform import Random

__all__ = [
    'ClassBalanced',
    'GumbelTopK',
    'Moderate',
    'Random',
    'Selection',
    'Selector',
    'SoftPruning',
    'Stratified',
    'Sweep',
    'Tiers',
    'TopK',
    'coreset_size',
    'digest',
    'top_k',
]
