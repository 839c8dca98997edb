"""What is asked of every model, whatever library it comes from, and the look-up of who answers."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar

from torch import Tensor, nn

from mmacs.quantization.dry_run import Run, register_dry_run
from mmacs.utils.libraries import load_adapters

_ADAPTERS: List[Type['Adapter']] = []

Kind = TypeVar('Kind', bound=Type['Adapter'])


class Call(NamedTuple):
    """One call of a module."""

    args: Tuple[Any, ...]
    output: Any


Calls = Dict[str, List[Call]]  # those of modules by name, in the order in which they were made


class Predictions(NamedTuple):
    """What a model predicts at N places (anchors, points, RoIs or queries) of one level, or for N images."""

    logits: Tensor  # (N, K); K counts the background, last, where classes are exclusive
    codes: Optional[Tensor]  # (N, D), boxes as the head codes them, or (N, K', D), one per foreground class
    sigmoid: bool = True  # whether classes are independent
    quality: Optional[Tensor] = None  # (N,), logits of centerness, IoU or objectness, where the head has them


class Adapter:
    """A model, seen as what it predicts before any postprocessing.

    A subclass in :mod:`mmacs.adapters.kinds` says what one kind of model is asked besides; a subclass of that, marked
    with :func:`register`, answers for the models of a library.

    Args:
        model (nn.Module): The model, not wrapped for distributed training.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Returns whether the model is one of those that the class answers for."""
        raise NotImplementedError

    @property
    def scorable(self) -> bool:
        """Whether :meth:`outputs` and what reads them are known for this model."""
        raise NotImplementedError

    @property
    def comparable(self) -> bool:
        """Whether :meth:`predictions` of two such models stand at the same places."""
        raise NotImplementedError

    @property
    def heads(self) -> Sequence[str]:
        """Names of the modules whose calls :meth:`predictions` reads."""
        raise NotImplementedError

    def hooked_module(self) -> Optional[nn.Module]:
        """The module whose outputs in a training forward are what :meth:`outputs` gives, or None."""
        return None

    def outputs(self, inputs: Tensor, data_samples: List[Any]) -> Any:
        """One forward pass, up to the head.

        Args:
            inputs (Tensor): Preprocessed images, shape (B, 3, H, W).
            data_samples (list): Their data samples.

        Returns:
            Any: What the head returns, in the form of the kind of model; batch first.
        """
        raise NotImplementedError

    def dry_run(self, images: Tensor) -> None:
        """Run the layers of the model on images (B, 3, H, W) alone, without postprocessing."""
        self.model(images)

    def raw(self, inputs: Tensor) -> Dict[str, Tensor]:
        """One forward pass of images that nothing in is padding, traceable.

        Args:
            inputs (Tensor): Preprocessed images, shape (B, 3, H, W).

        Returns:
            Dict[str, Tensor]: What the head predicts, by name, with the number of the level where there are levels;
            of a classifier ``scores``, the classes' probabilities, (B, K).

        Raises:
            MmacsError: If the head predicts in a way that is not known.
        """
        raise NotImplementedError

    def run_like(self, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """Run the :attr:`heads` at the places where another model's, whose calls were recorded, ran on these images."""
        self.outputs(inputs, data_samples)

    def predictions(self, calls: Calls) -> List[Predictions]:
        """Returns what recorded calls of the :attr:`heads` predict, level by level; gradients flow."""
        raise NotImplementedError


def register(kind: Kind) -> Kind:
    """Class decorator: :func:`adapter_of` knows the class from now on, and asks it before those registered earlier."""
    _ADAPTERS.insert(0, kind)
    return kind


def adapter_of(model: nn.Module) -> Optional[Adapter]:
    """Returns the adapter of a model, or None if no library that it is made of has one for it."""
    load_adapters(model)
    return next((kind(model) for kind in _ADAPTERS if kind.fits(model)), None)


@register_dry_run
def _find_dry_run(model: nn.Module) -> Optional[Run]:
    """Returns the :meth:`Adapter.dry_run` of a model's adapter."""
    adapter = adapter_of(model)
    return None if adapter is None else adapter.dry_run
