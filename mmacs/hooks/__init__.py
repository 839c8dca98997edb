from mmacs.hooks.batch_norm_hook import BatchNormReestimationHook
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.distillation_hook import DistillationHook
from mmacs.hooks.quantization_hook import QuantizationHook

__all__ = ['BatchNormReestimationHook', 'CoresetHook', 'DistillationHook', 'QuantizationHook']
