"""Coreset selection: which images to train on, by what is known of them.

The names are imported when they are first used: the mathematics needs torch alone, the sampler MMEngine.
"""

from typing import TYPE_CHECKING

from mmacs.utils.lazy import lazy_names

if TYPE_CHECKING:
    from mmacs.coreset.sampler import CoresetSampler  # noqa: F401
    from mmacs.coreset.scoring.scorers import Scorer  # noqa: F401
    from mmacs.coreset.scoring.scores import disagreement_score, error_vector_score  # noqa: F401
    from mmacs.coreset.selection.importance import Importance  # noqa: F401
    from mmacs.coreset.selection.normalisation import normalise  # noqa: F401
    from mmacs.coreset.selection.schedules import beta  # noqa: F401
    from mmacs.coreset.selection.selectors import Selection, Selector, coreset_size, digest, top_k  # noqa: F401

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        'mmacs.coreset.sampler': ('CoresetSampler',),
        'mmacs.coreset.scoring.scorers.base': ('Scorer',),
        'mmacs.coreset.scoring.scores': ('disagreement_score', 'error_vector_score'),
        'mmacs.coreset.selection.importance': ('Importance',),
        'mmacs.coreset.selection.normalisation': ('normalise',),
        'mmacs.coreset.selection.schedules': ('beta',),
        'mmacs.coreset.selection.selectors': ('Selection', 'Selector', 'coreset_size', 'digest', 'top_k'),
    },
)
