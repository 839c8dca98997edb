"""One quantizer for each tensor, however many layers read it: ``sharing='tensor'`` of a recipe.

A feature map that feeds several layers (a block's input the first convolution, the downsampling one and the residual
addition; a pyramid level both towers of a head) is stored once on hardware, with one step. Runtimes make integer
convolutions of those whose result has a single quantizer. Which layers read one tensor is seen in one recorded forward
when the model is converted.
"""

from collections import Counter
from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Set, Tuple

from torch import Tensor, nn

from mmacs.quantization.dry_run import dry_run
from mmacs.quantization.quantizers import Quantizer, SharedQuantizer
from mmacs.quantization.sharing import mark_forward
from mmacs.utils.errors import MmacsError

Slot = Tuple[str, int]  # name of a quantizer, level
Settings = Dict[str, Any]


class Read(NamedTuple):
    """A quantizer's reading of a tensor in the recorded forward."""

    slot: Slot
    tensor: int  # number of the tensor


class Group(NamedTuple):
    """Quantizers, of activations, that one takes the place of.

    Attributes:
        holder (str): Name of the one that stays: that with the most ranges, of these the first to run.
        levels (Dict[str, Tuple[int, ...]]): For each member, the holder too, its level for each of their ranges.
        reads (Tuple[int, ...]): How many read a tensor, by level.
    """

    holder: str
    levels: Dict[str, Tuple[int, ...]]
    reads: Tuple[int, ...]


def share_by_tensor(
    model: nn.Module, settings: Dict[str, Settings], build: Callable[[str, Settings, int], Quantizer]
) -> None:
    """Give one quantizer to all that read the same tensor, in place of one each; the others follow it.

    It has the most bits that one of them wants; all else that the recipe says of them must be the same. Ranges per
    channel are left alone.

    Args:
        model (nn.Module): A converted model without ranges.
        settings (Dict[str, dict]): What the recipe says of each activation quantizer, by name.
        build (Callable): Builds a quantizer for a name, settings and a number of levels.

    Raises:
        MmacsError: If the model can't be run on made-up images, or settings of a tensor differ.
    """
    num_levels = {
        name: module.num_levels
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and module.kind == 'activation' and module.num_channels == 1
    }
    reads = dry_run(model, partial(_record, names=list(num_levels)))
    groups = group_by_tensor(reads, num_levels)
    for group in groups:
        _unite(model, group, settings, build)
    if groups:
        mark_forward(model)


def _record(model: nn.Module, names: Sequence[str]) -> List[Read]:
    """Has the quantizers pass on what they get, and write to the returned list what that is."""
    reads: List[Read] = []
    seen: Dict[Tuple[int, int], int] = {}
    alive: List[Tensor] = []  # so that no two tensors have the same identity
    calls: Counter = Counter()

    def read(name: str, num_levels: int, x: Tensor) -> Tensor:
        number = seen.setdefault((id(x), x._version), len(seen))
        alive.append(x)
        reads.append(Read((name, min(calls[name], num_levels - 1)), number))
        calls[name] += 1
        return x

    modules = dict(model.named_modules())
    for module in modules.values():
        if isinstance(module, Quantizer):
            module.forward = lambda x: x
    for name in names:
        modules[name].forward = partial(read, name, modules[name].num_levels)
    return reads


def group_by_tensor(reads: Sequence[Read], num_levels: Dict[str, int]) -> List[Group]:
    """Returns the groups of two or more quantizers that read common tensors, in the order in which they run.

    Args:
        reads (Sequence[Read]): In the order in which they were made.
        num_levels (Dict[str, int]): Number of ranges of each quantizer, by name.

    Raises:
        MmacsError: If a quantizer with several ranges reads one tensor by two of them.
    """
    ranges = _Partition()  # of slots: those that read one tensor have one range
    members = _Partition()  # of quantizers: those that read common tensors are one
    first: Dict[int, Slot] = {}
    for slot, tensor in reads:
        reader = first.setdefault(tensor, slot)
        ranges.join(reader, slot)
        members.join(reader[0], slot[0])
    by_root: Dict[str, List[str]] = {}
    for name in dict.fromkeys(slot[0] for slot, _ in reads):
        by_root.setdefault(members.root(name), []).append(name)
    readers: Dict[Slot, int] = {}  # the largest number of one tensor's
    for tensor, count in Counter(read.tensor for read in reads).items():
        root = ranges.root(first[tensor])
        readers[root] = max(count, readers.get(root, 0))
    groups = []
    for names in by_root.values():
        if len(names) > 1:
            holder = max(names, key=num_levels.get)  # the first of equals
            _join_unread(holder, names, num_levels, ranges, {slot for slot, _ in reads})
            groups.append(_group(holder, names, num_levels, ranges, readers))
    return groups


def _join_unread(
    holder: str, names: Sequence[str], num_levels: Dict[str, int], ranges: '_Partition', read: Set[Slot]
) -> None:
    """Make one range of those that no member uses: layers of their own per pyramid level use one of their ranges."""
    for name in names:
        for level in range(num_levels[name]):
            if not {(holder, level), (name, level)} & read:
                ranges.join((holder, level), (name, level))


def _group(
    holder: str, names: Sequence[str], num_levels: Dict[str, int], ranges: '_Partition', readers: Dict[Slot, int]
) -> Group:
    numbers: Dict[Slot, int] = {}
    levels = {}
    for name in (holder, *names):
        roots = [ranges.root((name, level)) for level in range(num_levels[name])]
        levels[name] = tuple(numbers.setdefault(root, len(numbers)) for root in roots)
    if levels[holder] != tuple(range(num_levels[holder])):
        raise MmacsError(
            f'{holder} has a range for each of its {num_levels[holder]} calls in a forward, but two of them read the '
            f"same tensor, which sharing='tensor' does not know: set per_level=False for this layer in the recipe"
        )
    return Group(holder, levels, tuple(readers.get(root, 1) for root in numbers))


def _unite(
    model: nn.Module, group: Group, settings: Dict[str, Settings], build: Callable[[str, Settings, int], Quantizer]
) -> None:
    """Put the group's quantizer into its place, and what stands for it into those of the other members."""
    wanted = [settings[name] for name in group.levels]
    for name, other in zip(group.levels, wanted):
        if _without_bits(other) != _without_bits(wanted[0]):
            raise MmacsError(
                f"{group.holder} and {name} read the same tensor, which sharing='tensor' quantizes once, but the "
                f'recipe wants {_without_bits(wanted[0])} for one and {_without_bits(other)} for the other: give both '
                f'the same, but for bits, of which the larger number is taken'
            )
    before = [model.get_submodule(name) for name in group.levels]
    merged = {**settings[group.holder], 'bits': max(each['bits'] for each in wanted)}
    quantizer = build(group.holder, merged, len(group.reads))
    quantizer.name, quantizer.reads = group.holder, group.reads
    for state in before[0].state_dict().values():
        quantizer.to(state.device)
    quantizer.train(before[0].training)
    quantizer.requires_grad_(any(parameter.requires_grad for each in before for parameter in each.parameters()))
    for name, levels in group.levels.items():
        parent, _, child = name.rpartition('.')
        in_place = quantizer if name == group.holder else SharedQuantizer(quantizer, levels)
        setattr(model.get_submodule(parent), child, in_place.train(model.get_submodule(name).training))


def _without_bits(settings: Settings) -> Settings:
    """Returns what the members of a group must agree in: how often a layer is called is its own matter."""
    return {key: value for key, value in settings.items() if key not in ('bits', 'per_level', 'per_channel')}


class _Partition:
    """Disjoint sets, joined two by two."""

    def __init__(self) -> None:
        self._parents: Dict[Any, Any] = {}

    def root(self, item: Any) -> Any:
        """Returns the item that stands for the set of an item."""
        while self._parents.get(item, item) != item:
            item = self._parents[item]
        return item

    def join(self, one: Any, other: Any) -> None:
        """Make one set of those of two items."""
        self._parents[self.root(other)] = self.root(one)
