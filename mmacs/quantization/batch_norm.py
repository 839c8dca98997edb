"""BatchNorm of quantized models: one per pyramid level, and statistics that fit the final weights."""

from typing import Any, Callable, Dict, Iterable, List, Optional

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmacs.utils.checks import MAX_LEVELS, require_whole
from mmacs.utils.errors import MmacsError


class PerLevelBatchNorm2d(nn.ModuleList):
    """BatchNorm of a head that is shared between pyramid levels: each level has its own (Chen et al., AQD, CVPR 2021).

    The convolutions of a dense head see every level, whose activations differ in mean and variance, so that one
    BatchNorm fits none of them. MMDetection's heads take this one by config::

        norm_cfg=dict(type='mmacs.PerLevelBN', num_levels=5)

    The level is the order of calls within one forward, whose begin :func:`~.sharing.mark_per_level_norms` marks;
    ``type='mmacs.QuantizedModel'`` does that, also with ``recipe=None`` for a model in full precision.

    Each level is a plain ``nn.BatchNorm2d`` child, which whatever looks for BatchNorm finds: ``norm_eval``,
    weight-decay rules, conversion to SyncBN by MMEngine's ``sync_bn='torch'``. A checkpoint that has one BatchNorm in
    this place gives it to every level.

    Args:
        num_features (int): Number of channels.
        num_levels (int): Number of pyramid levels.
        **kwargs: Of ``nn.BatchNorm2d``, such as ``eps`` and ``momentum``.

    Raises:
        MmacsError: If ``num_levels`` is not a positive integer.
    """

    _abbr_ = 'bn'  # mmcv names the layer after it, as it names the one that it replaces

    def __init__(self, num_features: int, num_levels: int, **kwargs: Any) -> None:
        require_whole('num_levels', num_levels, most=MAX_LEVELS)
        super().__init__(nn.BatchNorm2d(num_features, **kwargs) for _ in range(num_levels))
        self.num_levels = num_levels
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W) of the next level.

        Raises:
            MmacsError: If all levels had their turn already.
        """
        level = 0
        if self.num_levels > 1:
            level, self.calls = self.calls, self.calls + 1
        if level >= self.num_levels:
            raise MmacsError(
                f'PerLevelBN was called more than {self.num_levels} times in one forward: set num_levels to the number '
                f"of pyramid levels, wrap the model in type='mmacs.QuantizedModel', which tells forwards apart, and do "
                f'not checkpoint activations inside the head'
            )
        return self[level](x)

    def spread_shared(self, state_dict: Dict[str, Tensor], prefix: str) -> None:
        """Give what a state dict has of one BatchNorm at ``prefix`` to every level, in place."""
        for key in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
            if prefix + key in state_dict:
                shared = state_dict.pop(prefix + key)
                state_dict.update({f'{prefix}{level}.{key}': shared for level in range(self.num_levels)})

    def _load_from_state_dict(self, state_dict: Dict[str, Tensor], prefix: str, *args: Any) -> None:
        self.spread_shared(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module, batches: Iterable[Any], forward: Optional[Callable[[Any], Any]] = None
) -> int:
    """Replace running means and variances of BatchNorm by their averages over batches, with the weights as they are.

    The running averages of quantization-aware training trail behind: at low bit-widths a weight that crosses a
    rounding threshold moves a whole step, and the statistics after it jump (Nagel et al., ICML 2022, section 3.1).
    Every BatchNorm is re-estimated, also those that training kept in eval mode: whether frozen statistics are to stay
    is decided by not calling this.

    BatchNorm alone runs in train mode, so that dropout is off and quantizers don't follow the data. Nothing else
    changes (weights, steps, flags, modes), and if a batch fails nothing does. Statistics are averaged over the
    processes of a distributed run, all of which must call this; with SyncBN, with equally many batches.

    Note:
        ``torch.optim.swa_utils.update_bn`` is not it: it puts the whole model in train mode, resets layers that no
        batch reaches, and knows nothing of processes and of batches that are dicts.

    Args:
        model (nn.Module): The model, not wrapped for distributed training.
        batches (Iterable): What to run; some hundred images, in batches as large as fit.
        forward (Callable, optional): Runs the model on one batch; defaults to ``model(batch)``.

    Returns:
        int: Number of layers re-estimated; a layer that no batch reaches keeps its statistics.

    Raises:
        MmacsError: If there is no batch, or no BatchNorm with running statistics.
    """
    forward = forward or model
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        raise MmacsError(f'this {type(model).__name__} has no BatchNorm whose statistics could be re-estimated')
    modes = [(module, module.training) for module in model.modules()]
    kept = [(layer.momentum, {name: value.clone() for name, value in layer.named_buffers()}) for layer in layers]
    model.eval()
    reached: List[bool] = [False] * len(layers)
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average over all calls, also of a layer that is called once per level
            layer.training = True
        empty = True
        for batch in batches:
            forward(batch)
            empty = False
        if empty:
            raise MmacsError('reestimate_batch_norm needs at least one batch')
        reached = [_average_over_processes(layer) for layer in layers]
    finally:
        for layer, (momentum, buffers), is_reached in zip(layers, kept, reached):
            layer.momentum = momentum
            for name, value in layer.named_buffers():
                if not is_reached or name == 'num_batches_tracked':
                    value.copy_(buffers[name])
        for module, training in modes:
            module.training = training
    return sum(reached)


def _average_over_processes(layer: nn.Module) -> bool:
    """Average statistics, weighted by each process's number of calls; False if no process called the layer."""
    calls = layer.num_batches_tracked.to(layer.running_mean.dtype)
    total = calls.clone()
    _all_reduce(total)
    if total > 0:
        for statistic in (layer.running_mean, layer.running_var):
            statistic.mul_(calls / total)
            _all_reduce(statistic)
    return bool(total > 0)


def _all_reduce(tensor: Tensor) -> None:
    """Sum a tensor over processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
