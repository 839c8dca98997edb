"""NaN and Inf that quantizers met where it would cost time to look at each tensor: now and then they are asked."""

from typing import List, Optional

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import nn

from mmacs.quantization import quantizers
from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.errors import MmacsError

MAX_SKIPS = 10  # questions in a row


class NonfiniteWatch:
    """Ends a run whose quantizers have met NaN or Inf, unless a loss scale keeps them from doing harm.

    A loss scale (MMEngine's ``AmpOptimWrapper``) skips a step whose gradients are not finite. As long as what
    quantizers learned and follow is finite, nothing is lost then, and the run goes on, with a warning; but not where
    the answer is yes so many times in a row that no loss scale is going to help.

    Attributes:
        skips (int): Questions in a row that were answered with yes.
    """

    def __init__(self) -> None:
        self.skips = 0

    def ask(self, model: nn.Module, optim_wrapper: object = None) -> None:
        """Asks all quantizers of a model. Call it in all processes.

        Args:
            model (nn.Module): The model.
            optim_wrapper (object, optional): What trains it, None if nothing does.

        Raises:
            MmacsError: Of the first quantizer that has met NaN or Inf.
        """
        found = [quantizer for _, quantizer in quantizers(model)]
        met = first_met(found)
        if met is None:
            self.skips = 0
            return
        if not skips_steps(optim_wrapper) or not all_finite(found):
            met.refuse_nonfinite()
        self.skips += 1
        if self.skips >= MAX_SKIPS:
            raise MmacsError(
                f'{met.name} met NaN or Inf again and again, which the loss scale does not cure: values overflow in '
                f"half precision; train with optim_wrapper.dtype='bfloat16', or without mixed precision"
            )
        print_log(f'{met.name} met NaN or Inf; the loss scale skipped such steps.', 'current', level=30)
        for quantizer in found:
            quantizer.met_nonfinite.zero_()


def first_met(found: List[Quantizer]) -> Optional[Quantizer]:
    """Returns the first quantizer that has met NaN or Inf in any process."""
    if not found:
        return None
    flags = torch.cat([quantizer.met_nonfinite for quantizer in found]).int()
    all_reduce(flags, op='max')  # all processes stop, and none waits for one that has
    return next((quantizer for quantizer, met in zip(found, flags.tolist()) if met), None)


def all_finite(found: List[Quantizer]) -> bool:
    """Returns whether all that quantizers learned, or follow, is finite in all processes."""
    broken = torch.tensor([any(not value.isfinite().all() for one in found for value in one.state_dict().values())])
    broken = broken.int().to(found[0].met_nonfinite.device)
    all_reduce(broken, op='max')
    return not broken.item()


def skips_steps(optim_wrapper: object) -> bool:
    """Returns whether an optimizer wrapper skips steps of gradients that are not finite."""
    scaler = getattr(optim_wrapper, 'loss_scaler', None)
    return scaler is not None and scaler.is_enabled()
