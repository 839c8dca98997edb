"""Mistakes that users make on the command line: one clear sentence, exit status 1, no traceback."""

import json
import sys

import pytest
import torch
from mmdet.registry import MODELS
from torch.distributed import TCPStore

from mmacs import cli
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO


def test_no_coco_names_the_missing_paths_and_the_ways_out(command):
    status, message = command('train.py', REPO / 'configs' / 'retinanet_r18_w4a4_acs.py')
    assert status == 1
    assert message.startswith('error: data is missing: data/coco')
    assert 'data/coco/annotations/instances_train2017.json' in message
    assert '--data-root' in message and 'tools/bootstrap.py demo' in message


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['train_dataloader.sampler.fraction=0'], 'error: fraction must be above 0 and at most 1, got 0'),
        (['default_hooks.coreset.schedule.interval=0'], 'error: interval must be a whole number, at least 1, got 0'),
        (['model.recipe.weight.bits=0'], 'error: bits must be an integer from 1 to 16, or 32 for full precision'),
        (['model.recipe.preset=w4a5'], "error: unknown preset 'w4a5': did you mean 'w4a"),
        (
            ['default_hooks.coreset.type=mmacs.CoresetHok'],
            "unknown hook 'mmacs.CoresetHok' in default_hooks.coreset: did you mean 'mmacs.CoresetHook'?",
        ),
        (['default_hooks.coreset.scorer.type=Dense'], "error: unknown scorer 'Dense'"),
        (['load_from=nowhere.pth'], 'nowhere.pth'),
        (
            ['model.bbox_head.num_classes=4'],
            'error: model.bbox_head has num_classes=4, and the data of train_dataloader has 3 classes (a, b, c)',
        ),
        (['train_dataloader.sampler.fraktion=1'], "CoresetSampler has no setting 'fraktion', did you mean 'fraction'"),
        (['default_hooks.coreset.intervall=1'], 'did you mean schedule=dict(interval=1)?'),
        (
            ['default_hooks.coreset.interval=3'],
            'interval belongs to a group of CoresetHook: write schedule=dict(interval=3)',
        ),
    ],
)
def test_wrong_settings(command, config, options, message):
    status, printed = command('train.py', config, '--cfg-options', *options)
    assert status == 1
    assert message in printed


def test_a_name_of_0_1_in_a_module_of_ones_own(command, config, tmp_path, monkeypatch):
    (tmp_path / 'own_scorer_of_0_1.py').write_text('from mmacs.coreset.scorers import Scorer\n')
    monkeypatch.syspath_prepend(tmp_path)
    child = tmp_path / 'child.py'
    child.write_text(f"_base_ = {str(config)!r}\ncustom_imports = dict(imports=['mmacs', 'own_scorer_of_0_1'])\n")
    status, message = command('train.py', child)
    assert status == 1
    assert "No module named 'mmacs.coreset.scorers'" in message and '"Moved modules" in CHANGELOG.md' in message


def test_a_config_of_a_package_without_its_folder(command, tmp_path):
    (tmp_path / 'child.py').write_text("_base_ = 'mmacs::retinanet_r18_w4a4_acs.py'\n")
    status, message = command('train.py', tmp_path / 'child.py')
    assert status == 1
    assert message.startswith('error: ') and 'mmacs::retinanet/retinanet_r18_w4a4_acs.py' in message


def test_no_such_config(command):
    status, message = command('train.py', 'configs/none.py')
    assert status == 1
    assert message.startswith('error: no such config') and 'configs/none.py' in message


def test_an_annotation_file_that_is_wrong_is_named_before_training(command, config, tiny_coco):
    whole = (tiny_coco / 'annotations.json').read_text()
    (tiny_coco / 'annotations.json').write_text(whole[: len(whole) // 2])
    status, message = command('train.py', config)
    assert status == 1
    assert 'annotations.json is not a COCO annotation file: it is cut off' in message


def test_a_test_split_without_annotations(command, config, tiny_coco, tmp_path, tiny_retinanet):
    """Its detections are written, and evaluated elsewhere."""
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), tmp_path / 'fp.pth')
    path = tiny_coco / 'annotations.json'
    content = json.loads(path.read_text())
    del content['annotations']
    path.write_text(json.dumps(content))
    plain = tmp_path / 'plain.py'
    plain.write_text(f'_base_ = {str(config)!r}\nmodel = dict(recipe=None)\ndefault_hooks = dict(_delete_=True)\n')
    options = [
        '--cfg-options',
        'test_evaluator.format_only=True',
        f'test_evaluator.outfile_prefix={tmp_path / "found"}',
    ]
    assert command('test.py', plain, tmp_path / 'fp.pth', *options) == (0, '')
    assert (tmp_path / 'found.bbox.json').exists()
    status, message = command('test.py', plain, tmp_path / 'fp.pth')
    assert status == 1
    assert 'the ann_file of test_evaluator has no "annotations" to evaluate with' in message


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_that_cannot_be_read_is_named(command, config, tiny_coco, workers):
    (tiny_coco / 'images' / '003.png').write_bytes(b'not a picture')
    status, message = command('train.py', config, '--cfg-options', f'train_dataloader.num_workers={workers}')
    assert status == 1
    assert message.startswith('error: cannot read image') and '003.png' in message


def test_a_missing_image_is_named(command, config, tiny_coco):
    (tiny_coco / 'images' / '003.png').unlink()
    status, message = command('train.py', config)
    assert status == 1
    assert '003.png' in message


def test_a_checkpoint_that_does_not_fit(command, config, tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.zeros(3))), tmp_path / 'other.pth')
    status, message = command('train.py', config, '--cfg-options', f'load_from={tmp_path / "other.pth"}')
    assert status == 1
    assert 'does not fit this RetinaNet' in message


def test_a_checkpoint_with_code_in_it_is_not_loaded(command, config, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ('executed',))

    torch.save(dict(state_dict=Evil()), tmp_path / 'evil.pth')
    for command_line in (
        ('test.py', config, tmp_path / 'evil.pth'),
        ('train.py', config, '--resume', tmp_path / 'evil.pth'),
    ):
        status, message = command(*command_line)
        assert status == 1
        assert 'something other than weights and plain values (builtins.print)' in message


def test_data_root_moves_the_data_and_the_evaluator(command, config, tiny_coco, tmp_path, tiny_retinanet):
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), tmp_path / 'fp.pth')
    moved = tmp_path / 'moved'
    tiny_coco.rename(moved)
    assert command('train.py', config)[0] == 1
    options = ['--cfg-options', 'train_cfg.max_epochs=1', f'load_from={tmp_path / "fp.pth"}']
    assert command('train.py', config, '--data-root', moved, '--work-dir', tmp_path / 'w', *options) == (0, '')
    assert (tmp_path / 'w' / 'coreset' / 'round_000.npz').exists()


def test_resume_auto_without_a_checkpoint_starts_from_load_from(command, config, tmp_path, tiny_retinanet):
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), tmp_path / 'fp.pth')
    options = ['--cfg-options', 'train_cfg.max_epochs=1', f'load_from={tmp_path / "fp.pth"}']
    for _ in range(2):  # the second time there is something to resume
        assert command('train.py', config, '--resume', 'auto', *options) == (0, '')
    first, second = (path.read_text() for path in sorted((tmp_path / 'run').glob('*/*.log')))
    assert 'NO FULL-PRECISION CHECKPOINT' not in first and 'Calibrated on' in first
    assert 'Resumed the coreset' in second and 'Calibrated on' not in second

    assert command('test.py', config, tmp_path / 'run' / 'epoch_1.pth', '--show-dir', 'pictures')[0] == 0
    assert len(list((tmp_path / 'run').glob('*/pictures/*.png'))) == 12


def test_a_missing_framework_is_one_sentence(command, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmengine', None)
    status, message = command('train.py', 'config.py')
    assert status == 1
    assert message.startswith('error: mmacs needs mmengine, which is not installed')


def test_bugs_keep_their_traceback_and_are_called_so(capsys):
    def bug():
        raise RuntimeError('a bug')

    with pytest.raises(SystemExit):
        cli.run(bug)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].startswith('Traceback') and "raise RuntimeError('a bug')" in ''.join(lines)
    assert lines[-1].startswith('error: this should not happen, please report it') and '(a bug)' in lines[-1]


def test_text_that_frameworks_put_around_a_message_is_taken_off():
    try:
        try:
            raise MmacsError('fraction must be above 0')
        except MmacsError as error:
            raise MmacsError(f'class `CoresetSampler` in mmacs/coreset/sampler.py: {error}')  # noqa: B904
    except MmacsError as wrapped:
        assert cli.explain(wrapped) == 'fraction must be above 0'
    worker = MmacsError(
        'Caught MmacsError in DataLoader worker process 0.\n  File x\nmmacs.errors.MmacsError: cannot read'
    )
    assert cli.explain(worker) == 'cannot read'


def test_of_processes_that_make_one_mistake_one_says_it(monkeypatch, capsys):
    def mistake():
        raise MmacsError('said once')

    store = TCPStore('localhost', 0, is_master=True, wait_for_workers=False)  # as torchrun has one
    given = {'TORCHELASTIC_USE_AGENT_STORE': 'True', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(store.port)}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:
            cli.run(mistake)
        assert stop.value.code == 1
    assert capsys.readouterr().err == 'error: said once\n'

    def lost():
        raise RuntimeError('Connection closed by peer')

    with pytest.raises(SystemExit) as stop:  # the process that spoke has ended
        cli.run(lost)
    assert stop.value.code == 1 and capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (["model.recipe.rules=[dict(name='neck.*',skip=True)]"], 'error: --cfg-options reads numbers, words and lists'),
        (['recipe.weight.bits=3'], 'error: recipe belongs to the model: model=dict(recipe=...)'),
        (['model.recipee=w4a4'], "error: RetinaNet has no setting 'recipee', did you mean 'recipe'?"),
        (['model.recipe.weight.per_channel=no'], "error: per_channel must be True or False, got 'no'"),
        (['model.recipe.weight.type=lsq'], "error: unknown quantizer 'lsq': did you mean 'LSQ'?"),
        (
            ['model.recipe.weight.type=DQActivation'],
            'DQActivation quantizes the activation, not the weight: take another',
        ),
    ],
)
def test_mistakes_in_a_recipe(command, config, options, message):
    status, actual = command('train.py', config, '--cfg-options', *options)
    assert status == 1
    assert message in actual


def test_settings_of_a_model_in_the_place_of_its_type(command, tmp_path):
    flat = "model = dict(type='mmacs.QuantizedModel', model='RetinaNet', backbone=dict(depth=18))"
    (tmp_path / 'flat.py').write_text(flat)
    (tmp_path / 'child.py').write_text("_base_ = './flat.py'\nmodel = dict(model=dict(backbone=dict(depth=50)))")
    for arguments in (['child.py'], ['flat.py', '--cfg-options', 'model.model.backbone.depth=50']):
        status, message = command('train.py', *arguments)
        assert status == 1
        assert 'write model.backbone and the like in place of model.model.backbone' in message


def test_a_quantized_checkpoint_is_not_evaluated_in_full_precision(command, config, tmp_path):
    assert command('train.py', config, '--cfg-options', 'train_cfg.max_epochs=1')[0] == 0
    plain = tmp_path / 'plain.py'
    plain.write_text(f'_base_ = {str(config)!r}\nmodel = dict(recipe=None)\ndefault_hooks = dict(_delete_=True)\n')
    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    status, message = command('test.py', plain, checkpoint)
    assert status == 1
    assert 'this checkpoint is of a quantized model, and the config of one in full precision' in message
