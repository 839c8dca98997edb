"""mmacs: low-bit quantization-aware training on an adaptively selected coreset, for MMEngine projects.

What this module names carries a promise: a change of it is in the CHANGELOG. The names are imported when they are first
used, so that ``import mmacs`` needs no framework and takes no time.
"""

from typing import TYPE_CHECKING

from mmacs.utils.announce import announce as _announce
from mmacs.utils.lazy import lazy_names
from mmacs.version import __version__

if TYPE_CHECKING:
    from mmacs.coreset import (  # noqa: F401
        CoresetSampler,
        Importance,
        Scorer,
        Selection,
        Selector,
        beta,
        coreset_size,
        digest,
        disagreement_score,
        error_vector_score,
        normalise,
        top_k,
    )
    from mmacs.deploy import load  # noqa: F401
    from mmacs.hooks import (  # noqa: F401
        ActivationDensityHook,
        AdaptiveBitsHook,
        BatchNormReestimationHook,
        BitGradientHook,
        CoresetHook,
        DistillationHook,
        DynamicThresholdsHook,
        GradientL1Hook,
        ProgressiveBitsHook,
        QuantizationHook,
        SwitchableBitsHook,
        WeightUpdateSkippingHook,
    )
    from mmacs.quantization import (  # noqa: F401
        Quantizer,
        Recipe,
        calibrate,
        disabled,
        fold_batch_norm,
        freeze,
        layer_table,
        quantize_model,
        quantizers,
        reestimate_batch_norm,
        set_bits,
    )
    from mmacs.utils.errors import MmacsError  # noqa: F401
    from mmacs.utils.registry import QUANTIZERS, SCORERS, SELECTORS  # noqa: F401

_PLACES = {
    'mmacs.coreset': (
        'CoresetSampler',
        'Importance',
        'Scorer',
        'Selection',
        'Selector',
        'beta',
        'coreset_size',
        'digest',
        'disagreement_score',
        'error_vector_score',
        'normalise',
        'top_k',
    ),
    'mmacs.deploy': ('load',),
    'mmacs.hooks': (
        'ActivationDensityHook',
        'AdaptiveBitsHook',
        'BatchNormReestimationHook',
        'BitGradientHook',
        'CoresetHook',
        'DistillationHook',
        'DynamicThresholdsHook',
        'GradientL1Hook',
        'ProgressiveBitsHook',
        'QuantizationHook',
        'SwitchableBitsHook',
        'WeightUpdateSkippingHook',
    ),
    'mmacs.quantization': (
        'Quantizer',
        'Recipe',
        'calibrate',
        'disabled',
        'fold_batch_norm',
        'freeze',
        'layer_table',
        'quantize_model',
        'quantizers',
        'reestimate_batch_norm',
        'set_bits',
    ),
    'mmacs.utils.errors': ('MmacsError',),
    'mmacs.utils.registry': ('QUANTIZERS', 'SCORERS', 'SELECTORS'),
}
__getattr__, __dir__, _names = lazy_names(__name__, _PLACES)
_announce()  # so that a script that only imports mmacs can read configs that inherit ``mmacs::...``
__all__ = ['__version__', *_names]  # noqa: PLE0604
