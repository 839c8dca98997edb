from mmacs.quantization.quantizers.base import Quantizer
from mmacs.quantization.quantizers.lsq import LSQ

__all__ = ['LSQ', 'Quantizer']
