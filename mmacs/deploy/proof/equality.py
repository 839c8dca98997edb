"""How many integers two computations of the same layers share."""

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional

import numpy as np

from mmacs.utils.errors import MmacsError

ALL = 0.9999  # share of all integers that have to be equal
EACH = 0.999  # share in every layer
APART = 1  # levels that two integers may lie apart


@dataclass
class Agreement:
    """Integers of a layer, or of all, that two computations give.

    Attributes:
        total (int): How many were compared.
        equal (int): How many are equal.
        apart (int): Levels between those that differ most.
    """

    total: int = 0
    equal: int = 0
    apart: int = 0

    @property
    def share(self) -> float:
        """Share of the integers that are equal, 0 to 1."""
        return self.equal / self.total if self.total else 1.0

    def add(self, other: 'Agreement') -> None:
        """Take further integers into account."""
        self.total += other.total
        self.equal += other.equal
        self.apart = max(self.apart, other.apart)


class Equality:
    """Compares the integers of layers, over several images and calls."""

    def __init__(self) -> None:
        self.layers: Dict[str, Agreement] = {}

    def add(self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
        """Compare integers that have the same name, ``<quantizer>#<call>``; calls of a quantizer are one layer.

        Raises:
            MmacsError: If one side lacks some, or they have other shapes.
        """
        for name in sorted(expected.keys() ^ found.keys()):
            where = 'the exported graph' if name in expected else 'the reference'
            raise MmacsError(f'{where} lacks the integers {name!r}')
        for name, values in expected.items():
            others = found[name]
            if values.shape != others.shape:
                raise MmacsError(f'{name} has the shape {values.shape} in the reference and {others.shape} in the file')
            apart = np.abs(values.astype(np.int32) - others.astype(np.int32))
            one = Agreement(apart.size, int((apart == 0).sum()), int(apart.max(initial=0)))
            self.layers.setdefault(name.rpartition('#')[0], Agreement()).add(one)

    def overall(self) -> Agreement:
        """Returns the agreement of all layers together."""
        found = Agreement()
        for one in self.layers.values():
            found.add(one)
        return found

    def worst(self) -> Optional[str]:
        """Returns the name of the layer with the smallest share of equal integers."""
        return min(self.layers, key=lambda name: self.layers[name].share, default=None)

    def failures(self) -> List[str]:
        """Returns what does not reach a bar, in words.

        In a layer of fewer than 1,000 integers one may differ.
        """
        found, overall = [], self.overall()
        if not overall.total:
            return ['there are no integers to compare']
        if overall.total - overall.equal > max(1, (1 - ALL) * overall.total):
            found.append(f'{overall.share:.4%} of all integers are equal, {ALL:.2%} are wanted')
        for name, one in self.layers.items():
            if one.total - one.equal > max(1, (1 - EACH) * one.total):
                found.append(f'{one.share:.3%} of the integers of {name} are equal, {EACH:.1%} are wanted')
            if one.apart > APART:
                found.append(f'integers of {name} are up to {one.apart} levels apart, {APART} is allowed')
        return found

    def report(self) -> Dict[str, object]:
        """Returns plain values: of all integers, of the worst layer, and of each."""
        overall, worst = self.overall(), self.worst()
        layers = {
            name: {'integers': one.total, 'equal': one.share, 'apart': one.apart} for name, one in self.layers.items()
        }
        return {
            'integers': overall.total,
            'equal': overall.share,
            'apart': overall.apart,
            'worst_layer': worst,
            'worst_equal': self.layers[worst].share if worst else 1.0,
            'layers': layers,
        }
