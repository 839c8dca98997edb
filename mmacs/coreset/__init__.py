from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.scoring.scores import error_vector_score
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.normalisation import normalise
from mmacs.coreset.selection.schedules import beta
from mmacs.coreset.selection.selectors import coreset_size, digest, top_k

__all__ = [
    'CoresetSampler',
    'Importance',
    'beta',
    'coreset_size',
    'digest',
    'error_vector_score',
    'normalise',
    'top_k',
]
