"""Mixed precision where there is no GPU."""

from contextlib import contextmanager
from typing import Any, Iterator

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from torch import nn

from mmacs.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CpuAmpOptimWrapper(OptimWrapper):
    """Automatic mixed precision on a CPU, in bfloat16, which has float32's range and so needs no loss scale.

    MMEngine's ``AmpOptimWrapper`` refuses to be built without a GPU, where ``tools/train.py`` takes this in its place.

    Args:
        **kwargs (Any): Of MMEngine's ``OptimWrapper``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        print_log('There is no GPU: mixed precision computes in bfloat16, without a loss scale.', 'current')

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forwards compute in bfloat16 inside."""
        with super().optim_context(model), autocast('cpu', torch.bfloat16):
            yield
