"""How far a run is, for quantizers that change in the course of it."""

from typing import List

from torch import nn

from mmacs.quantization.convert import quantizers
from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.checks import is_number
from mmacs.utils.errors import MmacsError


def run_followers(model: nn.Module) -> List[Quantizer]:
    """Returns the quantizers of a converted model that change in the course of a run."""
    return [quantizer for _, quantizer in quantizers(model) if quantizer.follows_run]


def set_progress(model: nn.Module, progress: float) -> None:
    """Tell quantizers that change in the course of a run how far it is: before each iteration, or each epoch.

    ``mmacs.QuantizationHook`` does it in runs that have the hook.

    Args:
        model (nn.Module): A model converted by :func:`~.convert.quantize_model`.
        progress (float): Share of the iterations that are done, from 0 to 1.

    Raises:
        MmacsError: If it is no such share.
    """
    if not is_number(progress) or not 0 <= progress <= 1:
        raise MmacsError(f'progress, a share of the run, must be a number from 0 to 1, got {progress!r}')
    for quantizer in run_followers(model):
        quantizer.progress.fill_(progress)
