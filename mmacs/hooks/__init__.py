from mmacs.hooks.activation_density_hook import ActivationDensityHook
from mmacs.hooks.adaptive_bits_hook import AdaptiveBitsHook
from mmacs.hooks.batch_norm_hook import BatchNormReestimationHook
from mmacs.hooks.bit_gradient_hook import BitGradientHook
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.distillation_hook import DistillationHook
from mmacs.hooks.dynamic_thresholds_hook import DynamicThresholdsHook
from mmacs.hooks.gradient_l1_hook import GradientL1Hook
from mmacs.hooks.progressive_hook import ProgressiveBitsHook
from mmacs.hooks.quantization_hook import QuantizationHook
from mmacs.hooks.switchable_bits_hook import SwitchableBitsHook
from mmacs.hooks.weight_skipping_hook import WeightUpdateSkippingHook

__all__ = [
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
]
