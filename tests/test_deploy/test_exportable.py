"""What can't be exported."""

import sys

import pytest
import torch
from torch import nn

import mmacs.deploy.exportable as exportable
from mmacs.deploy import export_model
from mmacs.quantization import disabled, freeze, quantize_model
from mmacs.utils.errors import MmacsError
from tests.test_deploy.models import quantized

IMAGES = [torch.rand(2, 3, 8, 8)]


def small(recipe='w4a4'):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    return quantized(model, recipe, IMAGES)


def refused(model, file, **settings):
    with pytest.raises(MmacsError) as found:
        export_model(model, file, **settings)
    assert not file.exists() or file.read_text() == 'mine'
    return str(found.value)


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'model.onnx'


def test_what_is_no_model(file):
    assert refused(None, file) == 'a quantized model (nn.Module) is needed, got None'


def test_a_full_precision_model(file):
    message = refused(nn.Sequential(nn.Conv2d(3, 4, 1)), file)
    assert message.startswith('this Sequential is in full precision: mmacs exports quantized models')


def test_a_model_that_was_never_calibrated(file):
    model = quantize_model(nn.Sequential(nn.Conv2d(3, 4, 1)), 'w4a4')
    assert refused(model, file).startswith('0.weight_quantizer was never calibrated: load a checkpoint')


def test_an_input_that_was_never_calibrated(file):
    model = small()
    model[2].input_quantizer.forget_range()
    assert refused(model, file).startswith('2.input_quantizer was never calibrated: call mmacs.quantization.calibrate')


def test_disabled_quantizers(file):
    model = small()
    with disabled(model):
        assert refused(model, file).startswith('0.weight_quantizer is disabled: export the model outside')


def test_a_frozen_model(file):
    assert (
        refused(freeze(small()), file) == '0 was frozen, and its steps are lost: export the model before mmacs.freeze'
    )


def test_more_than_eight_bits(file):
    model = small({'preset': 'w4a4', 'rules': [{'name': '2', 'activation': {'bits': 9}}]})
    assert refused(model, file) == '2.input_quantizer has 9 bits, and runtimes compute with at most 8'


def test_levels_that_are_not_evenly_spaced_for_qonnx(file):
    message = refused(small({'preset': 'w4a4', 'weight': {'type': 'DQWeight'}}), file, format='qonnx')
    assert message.startswith('0.weight_quantizer is a DQWeight, whose levels are not evenly spaced')


def test_activations_whose_levels_differ_from_channel_to_channel(file):
    message = refused(small({'preset': 'w4a4', 'activation': {'type': 'DAQ'}}), file)
    assert message.startswith('0.input_quantizer is a DAQ, whose levels differ from channel to channel, which runtimes')


def test_weights_that_are_sums_of_two_grids(file):
    message = refused(small({'preset': 'w4a4', 'weight': {'type': 'CoarseFine'}, 'activation': {'type': 'KL'}}), file)
    assert message.startswith('0.weight_quantizer is a CoarseFine, whose weights are sums of two grids, which runtimes')


def test_offsets_between_levels(file):
    model = small({'preset': 'w4a4', 'activation': {'type': 'LSQPlus'}})
    for module in (model[0], model[2], model[4]):
        module.input_quantizer.offset.data.copy_(module.input_quantizer.step * -0.4)
    message = refused(model, file)
    assert message.startswith('0.input_quantizer has an offset of -0.400 steps') and 'give round_offsets' in message
    export_model(model, file, round_offsets=True)
    assert file.exists()


def test_deformable_convolutions(file):
    class ModulatedDeformConv2d(nn.Module):
        pass

    model = small()
    model.append(ModulatedDeformConv2d())
    assert refused(model, file) == '5 is a deformable convolution, which ONNX runtimes have no integers for'


def test_a_file_that_exists(file):
    file.write_text('mine')
    assert refused(small(), file) == f'{file} exists: give another name, or force (--force) to replace it'


def test_a_weights_file_of_openvino_that_exists(tmp_path):
    (tmp_path / 'model.bin').write_text('mine')
    assert 'model.bin exists' in refused(small(), tmp_path / 'model.xml')


def test_a_format_that_openvino_does_not_read(tmp_path):
    with pytest.raises(MmacsError, match='model.xml must end in .onnx: OpenVINO'):
        export_model(small(), tmp_path / 'model.xml', format='qonnx')


def test_a_place_that_is_none(tmp_path):
    assert 'must end in .onnx, or in .xml for OpenVINO' in refused(small(), tmp_path / 'model.engine')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'format': 'qdq'}, "unknown format 'qdq': did you mean 'qcdq'"),
        ({'target': 'gpu'}, "unknown target 'gpu'"),
        ({'shape': 320}, 'shape must be height and width, as in 320 320, got 320'),
        ({'shape': (320, 0)}, 'the width in shape must be a whole number, at least 1, got 0'),
        ({'fixed_shape': True}, 'fixed_shape needs a shape'),
        ({'raw': 1}, 'raw must be True or False, got 1'),
        ({'score_threshold': 1.5}, 'score_threshold must be a number from 0 to below 1, got 1.5'),
        ({'max_detections': 0}, 'max_detections must be a whole number, at least 1, got 0'),
        ({'format': 'qonnx', 'target': 'tensorrt'}, 'format qonnx is for FPGA flows'),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(file, settings, message):
    assert refused(nn.Identity(), file, **settings).startswith(message)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'raw': True}, 'raw is for detectors: a Sequential gives the same without'),
        ({'max_detections': 5, 'score_threshold': 0.0}, 'max_detections, score_threshold: for boxes alone, of which'),
        ({'class_agnostic': True}, 'class_agnostic: for boxes alone, of which this file has none'),
    ],
    ids=str,
)
def test_settings_that_the_model_has_no_use_for(file, settings, message):
    assert refused(small(), file, **settings).startswith(message)


def test_missing_packages(file, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    message = refused(small(), file)
    assert message.startswith("onnxscript can't be imported") and 'install the extra mmacs[deploy]' in message


@pytest.mark.parametrize('name', ['torch', 'onnx'])
def test_packages_that_are_too_old(file, monkeypatch, name):
    monkeypatch.setitem(exportable.OLDEST, name, (99, 1))
    message = refused(small(), file)
    assert message.startswith(f'{name} ') and f'is too old to export models: {name} >= 99.1 is needed' in message


def test_a_model_that_can_not_be_traced(file):
    class Odd(nn.Sequential):
        def forward(self, x):
            x = super().forward(x)
            return x * float(x.sum())

    model = quantized(Odd(nn.Conv2d(3, 4, 1)), 'w4a4', IMAGES)
    assert refused(model, file).startswith('PlainOutputs of this model could not be traced: ')
