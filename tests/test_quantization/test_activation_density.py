"""The share of non-zero values, and the bits that it leaves."""

import torch

from mmacs.quantization.activation_density import DensityCount, bits_of_densities, densities, has_saturated


def test_densities_are_shares_of_all_calls_and_of_all_processes():
    here, there = DensityCount(), DensityCount()
    here.see('a', torch.tensor([0.0, 1.0, -2.0, 0.0]))
    here.see('a', torch.tensor([[0.0, 3.0]]))
    there.see('a', torch.zeros(2))
    there.see('b', torch.ones(3, dtype=torch.bfloat16))
    layers, cpu = ['a', 'b', 'never called'], torch.device('cpu')
    assert densities(layers, here.counts(layers, cpu)) == {'a': 0.5, 'b': 1.0, 'never called': 1.0}
    both = here.counts(layers, cpu) + there.counts(layers, cpu)
    assert densities(layers, both) == {'a': 3 / 8, 'b': 1.0, 'never called': 1.0}


def test_density_has_saturated_once_no_layer_moves():
    before = {'a': 0.5, 'b': 0.9}
    assert has_saturated(before, {'a': 0.51, 'b': 0.89}, 0.0101)
    assert not has_saturated(before, {'a': 0.5, 'b': 0.95}, 0.0101)


def test_bits_are_scaled_by_density_and_rounded():
    bits = {'a': 8, 'b': 8, 'c': 5, 'd': 4, 'e': 2}
    density = {'a': 0.4, 'b': 1.0, 'c': 0.5, 'd': 0.01, 'e': 0.9}
    assert bits_of_densities(bits, density, 1) == {'a': 3, 'b': 8, 'c': 3, 'd': 1, 'e': 2}
    # no layer gains bits, also one that had fewer than the fewest
    assert bits_of_densities(bits, density, 4) == {'a': 4, 'b': 8, 'c': 4, 'd': 4, 'e': 2}
