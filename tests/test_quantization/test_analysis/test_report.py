import json
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import nn

from mmacs.quantization import calibrate, quantize_model
from mmacs.quantization.analysis.cost import count_macs
from mmacs.quantization.analysis.report import make_report, report_summary, report_table
from mmacs.quantization.analysis.statistics import measure
from mmacs.quantization.quantizers import LSQ


class Net(nn.Module):
    """Two layers, an addition with a quantizer for each operand, and a layer without use."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.spare = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return self.operands[0](self.second(x)) + self.operands[1](x)


@pytest.fixture
def report():
    model = quantize_model(Net(), dict(rules=[dict(name='second', weight=None, activation=dict(bits=4))]))
    model.operands = nn.ModuleList([LSQ(bits=4), LSQ(bits=4)])
    x = torch.randn(16, 4)
    calibrate(model, [x])
    macs = count_macs(model, lambda: model(x[:1]))
    found = make_report(model, measure(model, [x]), macs, {'first': 0.25, 'operands': -0.125})
    return dict(
        found,
        input_shape=[3, 64, 96],
        sensitivity=dict(metric='accuracy', images=7, quantized=0.5, full_precision=0.75),
    )


def test_layers_have_what_was_measured_of_them(report):
    layers = {layer['name']: layer for layer in report['layers']}
    assert list(layers) == ['first', 'second', 'spare', 'operands']
    assert [len(layer['inputs']) for layer in layers.values()] == [1, 1, 1, 2]
    assert [layer['weight'] is None for layer in layers.values()] == [False, True, False, True]
    assert [layer['drop'] for layer in layers.values()] == [0.25, None, None, -0.125]
    assert [layer['bit_operations'] for layer in layers.values()] == [16 * 8 * 8, 16 * 32 * 4, 0, 0]
    assert report['totals']['bit_operations_full_precision'] == 2 * 16 * 32 * 32
    assert report['complaints'] == ['spare.weight_quantizer: never called', 'spare.input_quantizer: never called']
    json.dumps(report, allow_nan=False)


def test_the_table_has_a_line_for_every_input(report):
    text = StringIO()
    Console(file=text, width=180).print(report_table(report))
    lines = [line.split() for line in text.getvalue().splitlines()[2:]]
    assert [line[0] for line in lines] == ['first', 'second', 'spare', 'operands', '1']
    assert lines[0][-1] == '0.250' and lines[3][-1] == '-0.125'


def test_what_cannot_be_clipped_has_an_empty_cell(report):
    assert next(report_table(report).columns[3].cells).endswith('%')
    report['layers'][0]['weight']['clipped'] = None
    assert next(report_table(report).columns[3].cells) == ''


def test_the_summary_has_totals_and_complaints(report):
    lines = '\n'.join(report_summary(report))
    assert 'model size: 0.00 MB' in lines and 'times smaller' in lines
    assert 'bit operations for the first validation image, an input of 3 x 64 x 96: ' in lines
    assert 'accuracy on 7 validation images: 0.500 quantized, 0.750 in full precision' in lines
    assert 'NOTHING GETS THROUGH spare.input_quantizer: never called' in lines
