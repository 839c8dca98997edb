"""EfficientNet-Lite0, which MMPreTrain lacks."""

from typing import Any, Dict, Optional

from mmpretrain.models import EfficientNet

from mmacs.registry import MODELS


@MODELS.register_module()
class EfficientNetLite0(EfficientNet):
    """EfficientNet-B0 without squeeze-and-excitation, and with ReLU6 in the place of SiLU.

    Parameter names are those of MMPreTrain's EfficientNet. Source:
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite

    Args:
        act_cfg (dict, optional): The activations. Defaults to ReLU6.
        **settings (Any): As in MMPreTrain's ``EfficientNet``, but for ``arch``.
    """

    layer_settings = {
        'b': [
            [[size, channels, 0, *others] for size, channels, _, *others in stage]
            for stage in EfficientNet.layer_settings['b']
        ]
    }

    def __init__(self, act_cfg: Optional[Dict[str, Any]] = None, **settings: Any) -> None:
        super().__init__(arch='b0', act_cfg=act_cfg or dict(type='ReLU6'), **settings)
