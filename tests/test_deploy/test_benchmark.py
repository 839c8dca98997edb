"""The speeds: who takes part, and that the candidates take turns."""

import torch
from torch import nn

from mmacs.deploy.benchmark import benchmark, in_turns, speed_table
from tests.test_deploy.graphs import residual_graph


def test_candidates_take_turns():
    calls = []
    found = in_turns({name: lambda name=name: calls.append(name) for name in 'ab'}, 4)
    assert calls == ['a', 'a', 'b', 'b'] * 5 and found.keys() == {'a', 'b'}


def test_each_runtime_and_torch_with_each_number_of_threads():
    before, seen = torch.get_num_threads(), set()

    class Simulation(nn.Module):
        def forward(self, images):
            seen.add((torch.get_num_threads(), tuple(images.shape)))

    content = residual_graph().SerializeToString()
    told = []
    report = benchmark(content, content, Simulation(), (1, 3, 32, 40), 3, (1, 2), told.append)
    assert told == ['1 thread', '2 threads']
    names = ['float32 in ONNX Runtime', 'float32 in OpenVINO', 'exported in ONNX Runtime', 'exported in OpenVINO']
    rows = [(row['what'], row['threads']) for row in report['rows']]
    assert rows == [(name, count) for count in (1, 2) for name in [*names, 'simulation in torch']]
    assert report['rows'][0]['ratio'] == 1 and report['rows'][1]['milliseconds'] > 0
    assert seen == {(1, (1, 3, 32, 40)), (2, (1, 3, 32, 40))} and torch.get_num_threads() == before
    assert speed_table(report).row_count == 10
