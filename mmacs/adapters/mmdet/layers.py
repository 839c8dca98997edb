"""Which layers of MMDetection's heads predict, are read by others, and are shared between pyramid levels."""

from mmdet.models.dense_heads.tood_head import TaskDecomposition
from torch import nn

from mmacs.quantization.layers import register_weight_reader
from mmacs.quantization.roles import register_predictions
from mmacs.quantization.sharing import register_level_count

register_predictions(
    'mmdet',
    r'(.*_)?(cls|reg)_(convs|branches)|(cls|mask)_embed|(.*_)?mask_list(_[xy])?|controller|vfnet_reg_refine|segm_conv'
    r'|(heatmap|wh|offset)_head|fc',
)
register_weight_reader(TaskDecomposition, 'reduction_conv.conv')


@register_level_count
def num_levels(head: nn.Module) -> int:
    """Returns the number of levels that the anchors or points of a dense head are laid out for."""
    return getattr(getattr(head, 'prior_generator', None), 'num_levels', 1)
