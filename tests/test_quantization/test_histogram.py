import ast
from pathlib import Path

import numpy as np
import torch

import mmacs
from mmacs.quantization.histogram import bin_counts

REFUSED = {'histc', 'kthvalue'}  # by torch.use_deterministic_algorithms, on a GPU alone


def test_values_are_counted_in_bins_and_those_outside_in_the_outermost():
    values = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    expected, _ = np.histogram(values.clamp(-1, 1).numpy(), 16, (-1, 1))
    assert bin_counts(values, -1.0, 1.0, 16).tolist() == expected.tolist()


def test_nothing_calls_what_deterministic_runs_refuse_on_a_gpu():
    for file in Path(mmacs.__file__).parent.rglob('*.py'):
        text = file.read_text()
        if any(name in text for name in REFUSED):
            called = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
            assert not called & REFUSED, file
