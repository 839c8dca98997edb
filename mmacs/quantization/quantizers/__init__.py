from mmacs.quantization.quantizers.base import Grid, Quantizer
from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.quantization.quantizers.lsq_plus import LSQPlus

__all__ = ['Grid', 'LSQ', 'LSQPlus', 'Quantizer']
