"""Which layers of MMPreTrain's heads predict, and which are read by others."""

from mmpretrain.models.heads.stacked_head import LinearBlock
from mmpretrain.models.utils.attention import BEiTAttention, CrossMultiheadAttention, WindowMSAV2

from mmacs.quantization.layers import register_weight_reader
from mmacs.quantization.roles import register_predictions, register_wrapper

register_predictions('mmpretrain', r'fc2?|head|head_dist|(dist|.*_cls)_head|classifier')
register_wrapper(LinearBlock, 'fc', lambda block: block.norm is not None or block.act is not None)
register_weight_reader(WindowMSAV2, 'qkv')
register_weight_reader(BEiTAttention, 'qkv')
register_weight_reader(CrossMultiheadAttention, 'q', 'k', 'v')
