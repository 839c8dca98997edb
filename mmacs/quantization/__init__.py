import mmacs.utils.torch_version  # noqa: F401  # before all that an older torch would fail in
from mmacs.quantization.analysis.layer_table import layer_table
from mmacs.quantization.batch_norm import reestimate_batch_norm
from mmacs.quantization.calibrate import calibrate
from mmacs.quantization.convert import disabled, quantize_model, quantizers
from mmacs.quantization.freeze import fold_batch_norm, freeze
from mmacs.quantization.progress import set_progress
from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.recipe import Recipe
from mmacs.quantization.specification import QuantizerSpecification, Specification
from mmacs.quantization.switchable import set_bits

__all__ = [
    'Quantizer',
    'QuantizerSpecification',
    'Recipe',
    'Specification',
    'calibrate',
    'disabled',
    'fold_batch_norm',
    'freeze',
    'layer_table',
    'quantize_model',
    'quantizers',
    'reestimate_batch_norm',
    'set_bits',
    'set_progress',
]
