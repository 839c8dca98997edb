"""Quantized operands of additions and concatenations of feature maps.

On hardware these operations read stored feature maps, so a network that is low-bit throughout rounds them too. Small
modules do it: :class:`Addition` and :class:`Concatenation`, which a block calls in place of ``+`` and ``torch.cat``. A
model of your own has them as children. Into blocks of the known libraries the adapters put them: the class of a block
is swapped in place for a subclass with a :class:`Block` whose ``forward`` calls them.
"""

import inspect
from functools import cache
from typing import Any, Callable, ClassVar, Dict, List, Sequence, Tuple, Type, Union

import torch
from torch import Tensor, nn

from mmacs.quantization.quantizers import Quantizer
from mmacs.utils.errors import MmacsError
from mmacs.utils.libraries import load_adapters


class _Operation(nn.ModuleList):
    """Operations of one kind in one block; the children are the quantizers of their operands, none in full precision.

    Args:
        count (int): Number of such operations in one forward of the block.
    """

    quantizers_each: ClassVar[int]
    recipe_key: ClassVar[str]

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.count = count

    def _check(self, index: int) -> None:
        if index >= self.count:
            raise MmacsError(
                f'{self[0].name.rpartition(".")[0]} has quantizers for {self.count} {self.recipe_key}, but its block '
                f'makes more: construct {type(self).__name__} with their number'
            )


class Addition(_Operation):
    """Sums of two feature maps; the operands are fake-quantized, each by a quantizer of its own.

    Two steps each, since an integer addition rescales its operands to a common scale anyway, and a residual and its
    branch differ in range.
    """

    quantizers_each = 2
    recipe_key = 'additions'

    def forward(
        self, x: Tensor, y: Tensor, index: int = 0, enlarge: Callable[[Tensor], Tensor] = lambda y: y
    ) -> Tensor:
        """Add two tensors.

        Args:
            x (Tensor): Of any shape.
            y (Tensor): Of the same shape, once it is enlarged.
            index (int): Which of the block's additions it is.
            enlarge (Callable): Repeats values of ``y``, and computes no others, so that it does so with quantized ones.

        Returns:
            Tensor: The sum.
        """
        if len(self) == 0:
            return x + enlarge(y)
        self._check(index)
        return self[2 * index](x) + enlarge(self[2 * index + 1](y))


class Concatenation(_Operation):
    """Concatenations of feature maps along the channels; the operands are fake-quantized with one shared step.

    One step for all, since a concatenation copies integers only where its operands share a scale. Runtimes that have
    one for each operand requantize them here. As rounding is elementwise, the quantizer is applied to the result.
    """

    quantizers_each = 1
    recipe_key = 'concatenations'

    def forward(self, xs: Sequence[Tensor], index: int = 0) -> Tensor:
        """Concatenate (N, C_i, ...); ``index`` says which of the block's concatenations it is."""
        joined = torch.cat(xs, 1)
        if len(self) == 0:
            return joined
        self._check(index)
        return self[index](joined)


class Block:
    """Comes before the class of a library's block, and writes its ``forward`` with :meth:`add` and :meth:`concatenate`.

    The object keeps all that it was: type, parameters, names, state. With the quantizers absent or disabled its output
    is what it was, bit for bit. A subclass says for which blocks it is by :func:`register_block`, and how many
    operations such a block has in one forward by :meth:`num_additions` and :meth:`num_concatenations`.
    """

    sees_image: ClassVar[bool] = False  # whether the operands are the image

    def num_additions(self: Any) -> int:
        """Number of additions in one forward; called with the block as it was before its class was swapped."""
        return 0

    def num_concatenations(self: Any) -> int:
        """Number of concatenations in one forward; called with the block as it was before its class was swapped."""
        return 0

    def add(self, x: Tensor, y: Tensor, index: int = 0, **enlarged: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns the sum of quantized operands in the block's addition number ``index``, see :class:`Addition`."""
        return self.addition_quantizers(x, y, index, **enlarged)

    def concatenate(self, xs: Sequence[Tensor], index: int = 0) -> Tensor:
        """Quantized operands side by side along the channels, in the block's concatenation number ``index``."""
        return self.concatenation_quantizers(xs, index)

    def __reduce_ex__(self, protocol: int) -> Tuple[Any, ...]:
        """Copies and pickles by the two classes that this one is made of, which alone can be imported."""
        own, original = type(self).__bases__
        return (_new, (own, original), *super().__reduce_ex__(protocol)[2:])


BLOCKS: Dict[Callable, Type[Block]] = {}  # by the forward that it replaces


def register_block(*originals: Type[nn.Module]) -> Callable[[Type[Block]], Type[Block]]:
    """Declare the decorated class for blocks that run the ``forward`` of one of these types.

    Subclasses that keep the forward are covered, such as ResNeXt's blocks; those with a forward of their own are not.
    """

    def register(block: Type[Block]) -> Type[Block]:
        BLOCKS.update((inspect.unwrap(original.forward), block) for original in originals)
        return block

    return register


def place_operations(
    model: nn.Module, operation: Union[Type[Addition], Type[Concatenation]], optional: bool = False
) -> Dict[str, Union[Addition, Concatenation]]:
    """Put modules for additions, or for concatenations, into blocks of known types, where they are not yet.

    Args:
        model (nn.Module): Any model; it is changed in place, and computes what it did.
        operation (type): :class:`Addition` or :class:`Concatenation`.
        optional (bool): Whether the model may have none. Defaults to False.

    Returns:
        Dict[str, Addition or Concatenation]: All such modules by name, in the model's order.

    Raises:
        MmacsError: If the model has no such operation in a block of a known type, and must have.
    """
    load_adapters(model)
    for module in list(model.modules()):
        _adapt(module, operation)
    found = {name: module for name, module in model.named_modules() if isinstance(module, operation)}
    if not found and not optional:
        raise MmacsError(
            f'the recipe quantizes {operation.recipe_key}, but this {type(model).__name__} has none in a block of a '
            f'known type: leave `{operation.recipe_key}` out, or let its blocks call mmacs.quantization.blocks.'
            f'{operation.__name__}'
        )
    return found


def quantize_operands(
    model: nn.Module, operation: Union[Type[Addition], Type[Concatenation]], build: Callable[[nn.Module], Quantizer]
) -> List[str]:
    """Quantize the operands of all additions, or of all concatenations, in blocks that have or get a module for them.

    Blocks of known types gain ``<block>.addition_quantizers`` and ``<block>.concatenation_quantizers``, whose children
    are the quantizers in the order of use, an addition's left operand first.

    Args:
        model (nn.Module): Any model; it is changed in place.
        operation (type): :class:`Addition` or :class:`Concatenation`.
        build (Callable): Builds one activation quantizer with a single range for a given block.

    Returns:
        List[str]: Names of the blocks, in the model's order.

    Raises:
        MmacsError: If the model has no such operation in a block of a known type.
    """
    found = place_operations(model, operation)
    for name, module in found.items():
        block = model.get_submodule(name.rpartition('.')[0])
        parameters = list(block.parameters()) or list(model.parameters())
        for index in range(operation.quantizers_each * module.count):
            quantizer = build(block)
            quantizer.name = f'{name}.{index}'
            module.append(quantizer)
        if parameters:
            module.to(parameters[0].device)
            # a frozen stage stays frozen, as in layers
            module.requires_grad_(any(parameter.requires_grad for parameter in parameters))
        module.train(block.training)
    return [name.rpartition('.')[0] for name in found]


def _adapt(module: nn.Module, operation: Type[_Operation]) -> None:
    """Swap the class of a block of a known type that has this operation, and give it its modules."""
    block = BLOCKS.get(inspect.unwrap(type(module).forward))
    if block is None or isinstance(module, Block):
        return
    additions, concatenations = block.num_additions(module), block.num_concatenations(module)
    if not (additions if operation is Addition else concatenations):
        return
    module.__class__ = _swapped(block, type(module))
    if additions:
        module.addition_quantizers = Addition(additions)
    if concatenations:
        module.concatenation_quantizers = Concatenation(concatenations)


@cache
def _swapped(block: Type[Block], original: Type[nn.Module]) -> Type[nn.Module]:
    same = {name: getattr(original, name) for name in ('__module__', '__qualname__', '__doc__')}
    return type(original.__name__, (block, original), same)


def _new(block: Type[Block], original: Type[nn.Module]) -> nn.Module:
    kind = _swapped(block, original)
    return kind.__new__(kind)
