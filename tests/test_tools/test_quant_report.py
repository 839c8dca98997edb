import json

import pytest


def test_report_of_a_full_precision_checkpoint(command, config, full_precision, few_layers, tmp_path):
    options = ['--images', 4, '--sensitivity', 3, '--out', tmp_path / 'out', *few_layers]
    assert command('quant_report.py', config, full_precision, *options) == (0, '')
    assert (tmp_path / 'out' / 'report.png').stat().st_size > 10_000
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    layers = {layer['name']: layer for layer in report['layers']}
    assert next(iter(layers)) == 'backbone.conv1' and list(layers)[-1] == 'bbox_head.retina_reg'
    assert (report['images'], report['sensitivity']['images']) == (4, 3)
    assert report['input_shape'] == [3, 64, 96]
    head = layers['bbox_head.cls_convs.0.conv']
    assert (head['weight']['bits'], head['weight']['granularity'], head['inputs'][0]['granularity']) == (
        4,
        'channel',
        'level',
    )
    assert head['inputs'][0]['calls'] % 5 == 0  # pyramid levels
    assert head['bit_operations'] == 16 * head['macs']
    # a 96 x 64 image, padded: strides 8 to 128 give 12 x 8, 6 x 4, 3 x 2, 2 x 1 and 1 x 1 positions
    assert head['macs'] == (96 + 24 + 6 + 2 + 1) * 16 * 16 * 9
    assert set(layers) == {layer['name'] for layer in report['layers'] if layer['drop'] is not None}
    assert 0 < report['totals']['bytes'] < report['totals']['bytes_full_precision']
    assert report['complaints'] == []


def test_without_a_checkpoint_the_configs_own_is_used(command, config, full_precision, tmp_path):
    assert command('quant_report.py', config)[1] == 'error: name a checkpoint: the config has no load_from'
    options = ['--images', 2, '--cfg-options', f'load_from={full_precision}']
    assert command('quant_report.py', config, *options) == (0, '')
    report = json.loads((tmp_path / 'run' / 'quant_report' / 'report.json').read_text())
    assert (report['checkpoint'], report['sensitivity']) == (str(full_precision), {})


@pytest.mark.parametrize('option', [['--images', 0], ['--images', 2, '--sensitivity', -1]])
def test_numbers_of_images_are_checked(command, config, full_precision, option):
    status, message = command('quant_report.py', config, full_precision, *option)
    assert status == 1 and 'the number of images must be at least 1' in message
