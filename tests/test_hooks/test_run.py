"""Whole runs of the shipped COCO config, narrowed, on a dozen images."""

import copy
import json

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner

from mmacs.cli.coreset_reports import predicted_report
from mmacs.coreset.scoring.scorers import DenseDetectionScorer
from mmacs.hooks.run import coreset_sampler
from mmacs.quantization import quantizers
from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.predictions import read_predictions
from mmacs.visualization.coreset_report.run import read_run
from tests.conftest import page_data, run_config

CONFIG = 'retinanet_r18_w4a4_acs.py'
FLIPPED = [  # a scoring pipeline that draws at random
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]


@pytest.fixture
def trained(tiny_retinanet, tmp_path):
    """A full-precision checkpoint that fits the narrow model."""
    path = tmp_path / 'fp.pth'
    torch.save(dict(state_dict=MODELS.build(tiny_retinanet).state_dict()), path)
    return str(path)


class KillAfter(Hook):
    """Kills a run in the middle of an epoch."""

    def __init__(self, epochs):
        self.epochs = epochs

    def after_train_iter(self, runner, **kwargs):
        if runner.epoch == self.epochs:
            raise KeyboardInterrupt


def load_checkpoint(path):
    """What MMEngine loads from a checkpoint when nothing but tensors and plain values may be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
        return CheckpointLoader.load_checkpoint(str(path))


def train(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def rounds(work_dir):
    return [dict(np.load(path)) for path in sorted((work_dir / 'coreset').glob('round_*.npz'))]


def _same_round(one, other):
    return all(np.array_equal(one[key], other[key]) for key in one.keys() | other.keys() if key != 'seconds')


def weights(runner):
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


def test_two_epochs_select_train_save_and_report(tiny_coco, tmp_path, trained):
    changes = {'default_hooks.coreset.selector': dict(type='mmacs.TopK')}
    changes.update({f'default_hooks.{name}.report': True for name in ('coreset', 'quantization')})
    runner = train(run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained, **changes))
    # 10 images with objects, half of them: 5, two to a batch, two epochs
    assert runner.iter == 6
    found = rounds(tmp_path / 'run')
    assert [int(record['epoch']) for record in found] == [0, 1]
    for record in found:
        assert len(record['indices']) == 5
        scores = record['importance'][record['positions']]
        assert scores[record['indices']].min() >= np.delete(scores, record['indices']).max()
    with np.load(tmp_path / 'run' / 'coreset' / 'images.npz') as images:
        assert images['image_ids'].tolist() == [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
    told = read_run(tmp_path / 'run', None)  # what a report needs, without a config to execute
    assert told.about['settings']['selector'] == 'TopK()' and 'interval=1' in told.about['settings']['schedule']
    assert 'w4a4' in told.about['settings']['recipe']
    assert told.about['scores']['ds'] == DenseDetectionScorer.columns['ds']
    assert told.about['end'] == 2 and told.truth.ids.tolist() == [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
    checkpoint = load_checkpoint(tmp_path / 'run' / 'epoch_2.pth')
    assert checkpoint['mmacs_coreset']['indices'].tolist() == found[1]['indices'].tolist()
    assert not any('teacher' in key for key in checkpoint['state_dict'])
    summary = json.loads((tmp_path / 'run' / 'coreset' / 'summary.json').read_text())
    assert summary['images'] == 5
    assert summary['training_seconds'] > 0 and summary['selection_seconds'] > 0
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert 'Coreset for epoch 2: 5 of 10 images (50.0%), 10 scored in' in log
    assert ' (of the choice: the same where the same images are chosen)' in log
    assert 'overlap with the last coreset' in log
    scalars = next((tmp_path / 'run').glob('*/vis_data/scalars.json')).read_text()
    assert '"coreset/reducible_error"' in scalars
    # the reports at the end: what both models find in each image, and each layer's values over its levels
    page = page_data(tmp_path / 'run' / 'coreset_report' / 'index.html')
    assert len(page['images']) == 10 and set(page['models']) == {'quantized', 'teacher'}
    found = read_predictions(tmp_path / 'run' / 'coreset' / 'predictions.npz', 10)
    assert [*found['teacher']] == [*found['quantized']] == [*range(10)]
    # the same later, of the newest checkpoint, and as pictures
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained, **changes)
    report = predicted_report(tmp_path / 'run', '', None, cfg, 4, tmp_path / 'pictures')
    again = page_data(report)
    whole = {image['id']: image['found'] for image in page['images']}
    assert len(again['images']) == 4 and all(image['found'] == whole[image['id']] for image in again['images'])
    assert {path.name for path in (tmp_path / 'pictures').iterdir()} == {'detections.png', 'importance.png'}
    layers = page_data(tmp_path / 'run' / 'quant_report' / 'index.html')['layers']
    assert sum(sum(one['quantizers'][0]['histogram']['counts']) for one in layers) > 0


def test_same_seed_same_coreset_and_same_weights(tiny_coco, tmp_path, trained):
    runs = [train(run_config(CONFIG, tiny_coco, tmp_path / name, load_from=trained)) for name in 'ab']
    for one, other in zip(rounds(tmp_path / 'a'), rounds(tmp_path / 'b')):
        assert _same_round(one, other)
    first, second = map(weights, runs)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_killed_run_resumes_with_its_coreset_its_steps_and_its_teacher(tiny_coco, tmp_path, trained):
    changes = {'load_from': trained, 'default_hooks.coreset.schedule.interval': 2, 'train_cfg.max_epochs': 4}
    whole = run_config(CONFIG, tiny_coco, tmp_path / 'whole', **changes)
    killed = copy.deepcopy(whole)
    killed.work_dir = str(tmp_path / 'killed')
    uninterrupted = train(whole)

    runner = Runner.from_cfg(killed)
    runner.register_hook(KillAfter(epochs=3), priority='LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    (tmp_path / 'fp.pth').unlink()  # the run must not need the checkpoint that it started from any more

    killed.resume, killed.load_from = True, None
    resumed = train(killed)
    for one, other in zip(rounds(tmp_path / 'whole'), rounds(tmp_path / 'killed')):
        assert _same_round(one, other)
    first, second = weights(uninterrupted), weights(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    log = sorted((tmp_path / 'killed').glob('*/*.log'))[-1].read_text()
    assert 'Calibrated' not in log


def test_a_resumed_run_refuses_another_teacher_and_another_data_set(tiny_coco, tmp_path, trained):
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained)
    train(cfg)
    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs = True, None, 3
    smaller = copy.deepcopy(cfg)
    smaller.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=False)
    with pytest.raises(MmacsError, match='had 10 images when the checkpoint was written and now has 12'):
        train(smaller)
    other = dict(load_checkpoint(tmp_path / 'run' / 'epoch_1.pth')['state_dict'])
    torch.save(dict(state_dict=other), tmp_path / 'run' / 'teacher.pth')
    with pytest.raises(MmacsError, match='does not hold the full-precision weights that this run started from'):
        train(cfg)
    (tmp_path / 'run' / 'teacher.pth').unlink()
    with pytest.raises(MmacsError, match='missing'):
        train(cfg)


def test_the_teacher_file_is_the_checkpoint_that_the_run_started_from(tiny_coco, tmp_path, trained):
    train(run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained))
    teacher = torch.load(tmp_path / 'run' / 'teacher.pth', weights_only=True)['state_dict']
    start = torch.load(trained, weights_only=True)['state_dict']
    assert teacher.keys() == start.keys()
    assert all(torch.equal(teacher[key], start[key]) for key in start)


def test_a_checkpoint_that_does_not_fit(tiny_coco, tmp_path, trained):
    state = torch.load(trained, weights_only=True)['state_dict']
    del state['neck.fpn_convs.0.conv.weight']
    state['bbox_head.retina_cls.bias'] = torch.zeros(7)
    torch.save(dict(state_dict=state), trained)
    with pytest.raises(MmacsError, match='does not fit this RetinaNet: 2 of its weights') as raised:
        train(run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained))
    assert 'bbox_head.retina_cls.bias (7,) instead of (27,)' in str(raised.value)


def test_training_without_a_checkpoint_warns_loudly(tiny_coco, tmp_path):
    train(run_config(CONFIG, tiny_coco, tmp_path / 'run', **{'train_cfg.max_epochs': 1}))
    assert 'NO FULL-PRECISION CHECKPOINT' in next((tmp_path / 'run').glob('*/*.log')).read_text()


def test_evaluating_a_full_precision_checkpoint_in_a_quantized_config_is_refused(tiny_coco, tmp_path, trained):
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained)
    with pytest.raises(MmacsError, match='full precision and has no step sizes'):
        Runner.from_cfg(cfg).test()


def test_a_quantized_checkpoint_is_evaluated_with_its_own_steps(tiny_coco, tmp_path, trained):
    runner = train(run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained))
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'test', load_from=str(tmp_path / 'run' / 'epoch_2.pth'))
    tested = Runner.from_cfg(cfg)
    tested.test()
    steps = {name: quantizer.step for name, quantizer in quantizers(runner.model)}
    assert all(torch.equal(quantizer.step, steps[name]) for name, quantizer in quantizers(tested.model))


def test_a_checkpoint_of_another_bit_width_is_refused(tiny_coco, tmp_path, trained):
    train(run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained))
    w2a2 = run_config('retinanet/retinanet_r18_w2a2_acs.py', tiny_coco, tmp_path / 'w2a2')
    w2a2.load_from = str(tmp_path / 'run' / 'epoch_2.pth')
    with pytest.raises(MmacsError, match='trained with another recipe: .* quantizers differ') as raised:
        train(w2a2)
    assert '.conv1.weight_quantizer (bits 2 in the model, 4 in the checkpoint)' in str(raised.value)
    assert 'Recipe of the model: {"preset": "w2a2"}; of the checkpoint: {"preset": "w4a4"}' in str(raised.value)


def test_a_run_is_resumed_with_its_recipe_alone(tiny_coco, tmp_path, trained):
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained, **{'train_cfg.max_epochs': 1})
    cfg.model.recipe.rules = [dict(name='neck.*', skip=True)]
    train(copy.deepcopy(cfg))
    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs, cfg.model.recipe.rules = True, None, 2, []
    with pytest.raises(MmacsError, match='in the model, full precision in the checkpoint'):
        train(cfg)


def test_layers_that_a_quantized_checkpoint_knows_nothing_of_are_calibrated(tiny_coco, tmp_path, trained):
    skip = {'model.recipe.rules': [dict(name='neck.*', skip=True)], 'train_cfg.max_epochs': 1}
    train(run_config(CONFIG, tiny_coco, tmp_path / 'some', load_from=trained, **skip))
    start = str(tmp_path / 'some' / 'epoch_1.pth')
    runner = train(run_config(CONFIG, tiny_coco, tmp_path / 'all', load_from=start, **{'train_cfg.max_epochs': 1}))
    assert all(quantizer.is_initialized() for _, quantizer in quantizers(runner.model))


def test_a_resumed_random_subset_stays_the_same_without_a_seed(tiny_coco, tmp_path, trained):
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained, **{'train_cfg.max_epochs': 1})
    cfg.default_hooks.pop('coreset')
    cfg.pop('randomness')
    cfg.train_dataloader.sampler.redraw = False
    first = train(copy.deepcopy(cfg))
    cfg.resume, cfg.load_from, cfg.train_cfg.max_epochs = True, None, 2
    second = train(cfg)
    assert coreset_sampler(second).seed == coreset_sampler(first).seed
    assert set(coreset_sampler(second)) == set(coreset_sampler(first))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'default_hooks.coreset.schedule.interval': 0}, 'interval must be a whole number, at least 1, got 0'),
        ({'default_hooks.coreset.importance.beta': 'cosin'}, "unknown beta schedule 'cosin': did you mean 'cosine'"),
        ({'default_hooks.coreset.scorer.type': 'DenseScorer'}, "did you mean 'DenseDetectionScorer'"),
        ({'default_hooks.coreset.importance.normalisation': 'ranks'}, "did you mean 'rank'"),
        ({'default_hooks.coreset.preset': 'RS3'}, "unknown preset 'RS3': did you mean 'rs2'"),
        ({'default_hooks.coreset.preset': 'margin'}, "preset 'margin' is for classifiers, and this is a detector"),
        ({'default_hooks.coreset.preset': 'full'}, 'trains on all images, and .*fraction is 0.5: set it to 1'),
        ({'default_hooks.coreset.cost.harvest': 'no'}, "harvest must be True or False, got 'no'"),
        ({'default_hooks.coreset.cost.harvest': True}, r"'ds'\] can be had .* choose weights with one of these"),
        (
            {'default_hooks.coreset.scoring': dict(pipeline=FLIPPED)},
            'the scoring pipeline gives another image each time',
        ),
        ({'default_hooks.coreset.trim': 0.1}, r'trim belongs to a group .* write constraints=dict\(trim=0.1\)'),
        (
            {'default_hooks.coreset.schedule.interwal': 3},
            "unknown setting of schedule 'interwal': did you mean 'interval'",
        ),
        ({'train_dataloader.sampler.fraction': 1.5}, 'fraction must be above 0 and at most 1, got 1.5'),
        ({'model.recipe.weight.bits': 17}, 'bits must be an integer from 1 to 16'),
        (
            {'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler')},
            'CoresetHook needs train_dataloader.sampler',
        ),
    ],
)
def test_wrong_settings(tiny_coco, tmp_path, trained, changes, message):
    with pytest.raises(MmacsError, match=message):
        train(run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained, **changes))


def test_repeated_and_concatenated_data_sets_train(tiny_coco, tmp_path, trained):
    cfg = run_config(CONFIG, tiny_coco, tmp_path / 'run', load_from=trained, **{'train_cfg.max_epochs': 1})
    data_set = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=data_set), data_set.copy()]
    )
    train(cfg)
    (record,) = rounds(tmp_path / 'run')
    assert len(record['positions']) == 30
    assert len(record['importance']) == 20
    assert len(record['indices']) == 15
