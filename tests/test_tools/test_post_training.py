import pytest
import torch
from mmdet.registry import MODELS

from mmacs.quantization import quantize_model, quantizers
from mmacs.quantization.post_training import layers_to_follow


@pytest.mark.parametrize('method', ['gpfq', 'minmax'])
def test_a_checkpoint_that_the_config_takes(
    command, config, full_precision, few_layers, tmp_path, tiny_retinanet, method
):
    out = tmp_path / 'quantized.pth'
    options = [config, full_precision, '--method', method, '--images', 2, '--out', out, *few_layers]
    assert command('post_training.py', *options) == (0, '')
    written = torch.load(out, weights_only=True)
    model = quantize_model(MODELS.build(tiny_retinanet), str(tmp_path / 'few.json'))
    model.load_state_dict(written['state_dict'])
    assert all(quantizer.is_initialized() for _, quantizer in quantizers(model))
    before = torch.load(full_precision, weights_only=True)['state_dict']
    moved = {
        name
        for name, layer in layers_to_follow(model).items()
        if not torch.equal(layer.weight, before[f'{name}.weight'])
    }
    assert moved == (set(layers_to_follow(model)) if method == 'gpfq' else set())

    assert command('post_training.py', config, out, '--out', tmp_path / 'again.pth', *few_layers)[1].count(
        'is quantized already: name the full-precision checkpoint'
    )


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--images', 0], '--images must be at least 1, got 0'),
        (
            ['--cfg-options', 'model.recipe.bit_widths=[4,2]'],
            'gpfq rounds weights for one bit-width, and the recipe has [4, 2]',
        ),
        (
            ['--method', 'minmax', '--cfg-options', 'model.recipe.activation.type=LSQPlus'],
            'backbone.conv1.input_quantizer is LSQPlus, which has a start of its own: take --method mse',
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(command, config, full_precision, tmp_path, options, message):
    status, printed = command('post_training.py', config, full_precision, '--out', tmp_path / 'r.pth', *options)
    assert status == 1 and message in printed
    assert not (tmp_path / 'r.pth').exists()
