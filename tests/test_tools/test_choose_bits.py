import json

import pytest
import torch
from mmdet.registry import MODELS

from mmacs.quantization import quantize_model, quantizers


def test_chosen_bits_meet_the_budget_and_are_not_measured_twice(
    command,
    config,
    full_precision,
    few_layers,
    tmp_path,
    tiny_retinanet,
):
    out = tmp_path / 'recipe.json'
    options = [config, full_precision, '--candidates', 8, 2, '--images', 2, '--out', out, *few_layers]
    assert command('choose_bits.py', *options, '--mean-bits', 5) == (0, '')
    model = quantize_model(MODELS.build(tiny_retinanet), str(out))
    layers = [module for module in model.modules() if hasattr(module, 'weight_quantizer')]
    bits = [layer.weight_quantizer.bits for layer in layers]
    sizes = [layer.weight.numel() for layer in layers]
    assert set(bits) == {2, 8}
    assert 4 < sum(map(int.__mul__, bits, sizes)) / sum(sizes) <= 5
    assert [layer.input_quantizer.bits for layer in layers] == bits
    assert model.backbone.conv1.weight_quantizer.bits == model.bbox_head.retina_cls.weight_quantizer.bits == 8

    record = tmp_path / 'recipe.json.sensitivity.json'
    measured = record.read_bytes()
    record.chmod(0o444)
    assert command('choose_bits.py', *options, '--size-mb', 1) == (0, '')
    rules = json.loads(out.read_text())['rules']
    assert [rule['weight']['bits'] for rule in rules if 'weight' in rule] == [8] * (len(rules) - 2)
    assert record.read_bytes() == measured


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--mean-bits', 1], 'no choice of bit-widths fits a budget of 1: the smallest feasible is'),
        (['--size-mb', 0.001], 'no choice of bit-widths fits a budget of 0.001: the smallest feasible is'),
        (['--mean-bits', 4, '--candidates', 0, 4], 'bits must be an integer from 1 to 16'),
        (['--mean-bits', 4, '--images', 0], 'the number of images must be at least 1'),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(command, config, full_precision, tmp_path, options, message):
    status, printed = command('choose_bits.py', config, full_precision, '--out', tmp_path / 'r.json', *options)
    assert status == 1 and message in printed
    assert not list(tmp_path.glob('r.json*'))


def test_a_quantized_checkpoint_is_refused(command, config, tmp_path, tiny_retinanet):
    model = quantize_model(MODELS.build(tiny_retinanet), 'w4a4')
    for _, quantizer in quantizers(model):
        quantizer.initialized.fill_(1)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'quantized.pth')
    options = ['--mean-bits', 4, '--out', tmp_path / 'r.json']
    status, printed = command('choose_bits.py', config, tmp_path / 'quantized.pth', *options)
    assert status == 1 and printed.endswith('against full precision: name the full-precision checkpoint')
