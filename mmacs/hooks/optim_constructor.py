"""The optimizer's parameter groups: step sizes and the like are no weights."""

from typing import Any, Dict, List, Optional

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import Tensor, nn

from mmacs.quantization.quantizers import Quantizer
from mmacs.quantization.width import Width
from mmacs.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmacs.utils.checks import is_number, require_switch
from mmacs.utils.errors import MmacsError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuantizationOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor with settings of their own for all parameters of quantizers.

    Weight decay pulls towards zero, which is no better a step size, threshold or offset than any other. So by default
    quantizers' parameters have none, and the learning rate of the others::

        optim_wrapper = dict(
            constructor='mmacs.QuantizationOptimWrapperConstructor',
            paramwise_cfg=dict(quantizer_lr_mult=0.1, norm_decay_mult=0.0),
        )

    Of a parameter that one of the ``custom_keys`` matches, what that key says holds (``lr_mult``, ``decay_mult``), and
    the quantizers' setting for what it leaves out. Shared parameters are optimized once unless ``bypass_duplicate`` is
    set to False, which makes them an error, as in MMEngine.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper, with its optimizer.
        paramwise_cfg (dict, optional): The keys of :class:`mmengine.optim.DefaultOptimWrapperConstructor`, and
            ``quantizer_lr_mult`` (default 1.0) and ``quantizer_decay_mult`` (default 0.0), multipliers of the
            optimizer's learning rate and weight decay, at least 0.

    Raises:
        MmacsError: If ``lr`` or ``weight_decay`` is no number, a multiplier is no number of at least 0, or it has
            nothing to multiply.
    """

    def __init__(self, optim_wrapper_cfg: Dict[str, Any], paramwise_cfg: Optional[Dict[str, Any]] = None) -> None:
        defaults = dict(quantizer_lr_mult=1.0, quantizer_decay_mult=0.0, bypass_duplicate=True)
        super().__init__(optim_wrapper_cfg, {**defaults, **(paramwise_cfg or {})})
        require_switch('paramwise_cfg.bypass_duplicate', self.paramwise_cfg['bypass_duplicate'])
        for key, neutral, base in (('quantizer_lr_mult', 1, 'lr'), ('quantizer_decay_mult', 0, 'weight_decay')):
            value, multiplied = self.paramwise_cfg[key], self.optimizer_cfg.get(base)
            if multiplied is not None and not (is_number(multiplied) or isinstance(multiplied, Tensor)):
                raise MmacsError(f'optim_wrapper.optimizer.{base} must be a number, got {multiplied!r}')
            if not is_number(value) or value < 0:
                raise MmacsError(f'paramwise_cfg.{key} must be a number of at least 0, got {value!r}')
            if value != neutral and multiplied is None:
                raise MmacsError(f'paramwise_cfg.{key}={value} needs optimizer.{base} to multiply: set it')

    def add_params(self, params: List[Dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Append one parameter group for each trainable parameter of a module and its children, see MMEngine."""
        start = len(params)
        super().add_params(params, module, prefix=prefix, **kwargs)
        if not isinstance(module, (Quantizer, Width)):
            return
        for group in params[start:]:
            # MMEngine copies what a custom key says into the group. What replaces a weight learns like one.
            if 'lr_mult' not in group and self.base_lr is not None and not getattr(module, 'replaces_weight', False):
                group['lr'] = self.base_lr * self.paramwise_cfg['quantizer_lr_mult']
            if 'decay_mult' not in group:
                group['weight_decay'] = (self.base_wd or 0.0) * self.paramwise_cfg['quantizer_decay_mult']
