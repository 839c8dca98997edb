from mmacs.coreset.importance import Importance
from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.schedules import beta
from mmacs.coreset.scores import error_vector_score, normalise
from mmacs.coreset.selectors import coreset_size, digest, top_k

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
