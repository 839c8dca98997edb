from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.quantization_hook import QuantizationHook

__all__ = ['CoresetHook', 'QuantizationHook']
