"""``type='mmacs.QuantizedModel'``: any model config, built and converted."""

from typing import Any, Dict, Optional, Union

from torch import nn

from mmacs.quantization.convert import quantize_model
from mmacs.quantization.sharing import mark_per_level_norms
from mmacs.registry import MODELS


@MODELS.register_module(name='QuantizedModel')
def build_quantized_model(
    model: Dict[str, Any],
    recipe: Optional[Union[str, Dict[str, Any]]] = 'w4a4',
    data_preprocessor: Optional[Dict[str, Any]] = None,
) -> nn.Module:
    """Build a model from its own config and convert it in place.

    What comes back is the model itself (a ``RetinaNet``, an ``ImageClassifier``), not a wrapper: whatever works on it
    in full precision works on it now, and its checkpoints have the same keys.

    Args:
        model (dict): Config of the full-precision model.
        recipe (str or dict, optional): See :class:`mmacs.quantization.Recipe`. None keeps full precision, for a
            baseline that has what is ours beside quantization (``mmacs.PerLevelBN``). Defaults to ``'w4a4'``.
        data_preprocessor (dict, optional): Used if ``model`` has none: MMEngine's Runner puts a top-level
            ``data_preprocessor``, as MMPreTrain configs have, into the outermost model config.

    Returns:
        nn.Module: The quantized model.
    """
    model = dict(model)
    if data_preprocessor is not None:
        model.setdefault('data_preprocessor', data_preprocessor)
    model = MODELS.build(model)
    if recipe is None:
        mark_per_level_norms(model)
        return model
    return quantize_model(model, recipe)
