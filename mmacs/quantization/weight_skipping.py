"""Weights that rest while accuracy does (Safayenikoo and Akturk 2020, arXiv 2012.02792), without the run around it."""

import math
from dataclasses import dataclass
from typing import List, Optional

from torch import nn

from mmacs.quantization.quantizers import Quantizer


@dataclass(frozen=True)
class Skipping:
    """What is remembered between validations.

    Attributes:
        previous (float, optional): Accuracy of the last validation.
        left (int): Validations until weights are trained again; 0 while they are.
    """

    previous: Optional[float] = None
    left: int = 0

    def after(self, accuracy: float, tolerance: float, window: int) -> 'Skipping':
        """What is remembered after a validation.

        Weights rest for a window of validations once accuracy has moved by no more than a share of itself from one to
        the next. After the window they are trained for at least as long as to the next validation: while they rest
        accuracy hardly moves, and they would rest for good.

        Args:
            accuracy (float): Of this validation; one that is not finite moves.
            tolerance (float): The share, at least 0.
            window (int): Validations, at least 1.
        """
        if self.left > 0:
            return Skipping(accuracy, self.left - 1)
        stagnates = self.previous is not None and abs(accuracy - self.previous) <= tolerance * abs(self.previous)
        return Skipping(accuracy if math.isfinite(accuracy) else None, window if stagnates else 0)


def resting_parameters(model: nn.Module) -> List[str]:
    """Names of the parameters that rest: weights, and what quantizes weights.

    Weights have two axes or more. Biases, scales and offsets of norms, and steps of activations go on; a step of a
    weight rests with it, since its gradient is a sum over the gradients of the weight, which are not to be computed.

    Args:
        model (nn.Module): A model, converted or not.

    Returns:
        List[str]: Names of those that are trained now, in the model's order.
    """
    found = []
    for place, module in model.named_modules():
        of_weight = isinstance(module, Quantizer) and module.kind == 'weight'
        for name, parameter in module.named_parameters(recurse=False):
            goes_on = parameter.dim() < 2 or isinstance(module, Quantizer)
            if parameter.requires_grad and (of_weight or not goes_on):
                found.append(f'{place}.{name}'.lstrip('.'))
    return found
