from mmacs.quantization.calibrate import calibrate
from mmacs.quantization.convert import disabled, quantize_model, quantizers
from mmacs.quantization.recipe import Recipe
from mmacs.quantization.report import layer_table

__all__ = ['Recipe', 'calibrate', 'disabled', 'layer_table', 'quantize_model', 'quantizers']
