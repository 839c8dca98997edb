from mmacs.quantization.quantizers.base import Grid, Quantizer
from mmacs.quantization.quantizers.coarse_fine import CoarseFine
from mmacs.quantization.quantizers.cpq import CPQ
from mmacs.quantization.quantizers.daq import DAQ
from mmacs.quantization.quantizers.dorefa import DoReFa
from mmacs.quantization.quantizers.dq_activation import DQActivation
from mmacs.quantization.quantizers.dq_weight import DQWeight
from mmacs.quantization.quantizers.kl import KL
from mmacs.quantization.quantizers.lsq import LSQ
from mmacs.quantization.quantizers.lsq_plus import LSQPlus
from mmacs.quantization.quantizers.octav import OCTAV
from mmacs.quantization.quantizers.pact import PACT
from mmacs.quantization.quantizers.ranges import EMAMinMax, MinMax, Percentile
from mmacs.quantization.quantizers.sdq import SDQ
from mmacs.quantization.quantizers.shared import SharedQuantizer, source_of
from mmacs.quantization.quantizers.slb import SLB
from mmacs.quantization.quantizers.tqt import TQT

__all__ = [
    'CPQ',
    'CoarseFine',
    'DAQ',
    'DQActivation',
    'DQWeight',
    'DoReFa',
    'EMAMinMax',
    'Grid',
    'KL',
    'LSQ',
    'LSQPlus',
    'MinMax',
    'OCTAV',
    'PACT',
    'Percentile',
    'Quantizer',
    'SDQ',
    'SLB',
    'SharedQuantizer',
    'TQT',
    'source_of',
]
