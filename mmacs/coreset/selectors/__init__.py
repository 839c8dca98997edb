from mmacs.coreset.selectors.base import Selection, Selector, coreset_size, digest
from mmacs.coreset.selectors.top_k import class_balanced_top_k, top_k

__all__ = ['Selection', 'Selector', 'class_balanced_top_k', 'coreset_size', 'digest', 'top_k']
