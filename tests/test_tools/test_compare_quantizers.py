import json

import pytest

from mmacs.utils.errors import MmacsError
from tests.conftest import run_config
from tools.compare_quantizers import bits_of, render


def test_cells_are_trained_once_and_never_under_other_settings(command, full_precision, tiny_coco, tmp_path):
    config = tmp_path / 'config.py'
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run', load_from=str(full_precision))
    cfg.default_hooks.pop('coreset')
    cfg.train_cfg.max_epochs = 1
    cfg.dump(config)
    options = [config, '--work-dir', tmp_path / 'table', '--methods', 'LSQ+', '--bits', '4']
    assert command('compare_quantizers.py', *options) == (0, '')
    result = tmp_path / 'table' / 'LSQ_plus_w4a4' / 'result.json'
    assert {'ptq', 'qat'} < json.loads(result.read_text()).keys()
    table = (tmp_path / 'table' / 'table.md').read_text().splitlines()
    assert table[0] == '| method | W4A4 PTQ | W4A4 QAT |'
    assert [line.count('|') for line in table] == [4] * 4
    before = result.stat().st_mtime_ns
    assert command('compare_quantizers.py', *options) == (0, '')
    assert result.stat().st_mtime_ns == before
    status, message = command('compare_quantizers.py', *options, '--cfg-options', 'train_cfg.max_epochs=2')
    assert status == 1
    assert 'was computed under other settings, or by another version of mmacs: choose another --work-dir' in message
    status, message = command('compare_quantizers.py', config, '--methods', 'LSK')
    assert "unknown method 'LSK': did you mean 'LSQ'" in message


def test_bits_are_a_number_or_one_for_weights_and_one_for_activations():
    assert (bits_of('4'), bits_of('w4a8')) == ((4, 4), (4, 8))
    with pytest.raises(
        MmacsError, match="--bits takes numbers such as 4, for weights and activations, or w4a8, got '4a8'"
    ):
        bits_of('4a8')


def test_the_table_has_a_column_for_each_stage_that_was_asked_for():
    table = render({'LSQ': {'8': {'ptq': 0.2}, 'w4a8': {'ptq': 0.1}}}, ['8', 'w4a8'], 0.25, ['ptq']).splitlines()
    assert table[0] == '| method | W8A8 PTQ | W4A8 PTQ |'
    assert table[-1] == '| LSQ | 0.200 | 0.100 |'
