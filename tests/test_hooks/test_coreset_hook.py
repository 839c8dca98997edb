"""Whole runs with the options of CoresetHook, several at once: the narrow detector, and a small classifier."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmacs.coreset.budget.prediction import Plan
from mmacs.coreset.scoring.scorers import ClassificationScorer
from mmacs.coreset.state import CoresetState
from mmacs.hooks import CoresetHook
from mmacs.hooks.run import refuse_mixed_images
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import quantizers
from mmacs.utils.errors import MmacsError
from tests.conftest import change_coreset, run_config

from .test_run import load_checkpoint, rounds, weights

pytest.importorskip('mmpretrain')


class Stream(Hook):
    """Keeps which images each iteration shows."""

    def __init__(self):
        self.images = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        samples = data_batch['data_samples']
        self.images.append([sample.get('img_id', sample.get('sample_idx')) for sample in samples])


class HalfPrecision(OptimWrapper):
    """Autocast as AmpOptimWrapper's, which needs a GPU."""

    def optim_context(self, model):
        return torch.autocast('cpu', torch.bfloat16)


def detector(data: Path, work_dir: Path, epochs: int = 1, **coreset) -> Config:
    """The narrow RetinaNet, without augmentation."""
    cfg = run_config('retinanet_r18_w4a4_acs.py', data, work_dir, **{'train_cfg.max_epochs': epochs})
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'RandomFlip':
            transform.prob = 0.0
    cfg.param_scheduler = None
    change_coreset(cfg, **{'selector': dict(type='mmacs.TopK'), **coreset})
    return cfg


def run(cfg: Config, resume_from=None):
    """Train, resumed from a checkpoint if one is given; returns the runner and the images of each iteration."""
    if resume_from is not None:
        cfg.resume, cfg.load_from = True, str(resume_from)
    cfg.experiment_name = Path(cfg.work_dir).name
    runner, stream = Runner.from_cfg(cfg), Stream()
    runner.register_hook(stream)
    runner.train()
    return runner, stream.images


def require_continued(one: Runner, other: Runner, starts) -> None:
    """Require that a resumed run held rounds at these iterations, all as the whole run did, and has its weights."""
    whole, rest = ({int(r['iteration']): r for r in rounds(Path(runner.work_dir))} for runner in (one, other))
    assert list(rest) == starts
    for iteration, record in rest.items():
        for key in record.keys() - {'seconds'}:
            np.testing.assert_array_equal(record[key], whole[iteration][key])  # takes NaN for equal
    first, second = weights(one), weights(other)
    assert all(torch.equal(first[key], second[key]) for key in first)


def log_of(work_dir: Path) -> str:
    return sorted(work_dir.glob('*/*.log'))[-1].read_text()


def scalars_of(work_dir: Path):
    """Scalars of each round."""
    lines = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1].read_text().splitlines()
    return [record for record in map(json.loads, lines) if 'coreset/images' in record]


def test_an_iteration_based_run_goes_on_in_the_middle_of_an_interval(tiny_coco, tmp_path):
    def config(name):
        cfg = detector(
            tiny_coco,
            tmp_path / name,
            importance=dict(weights=dict(evs='beta', ds='1 - beta')),
            selector=dict(type='mmacs.GumbelTopK'),
            schedule=dict(interval=4, warmup=2, full_data_last=6),
            cost=dict(harvest=True, rescore=0.5),
            unbiased=True,
        )
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=14, val_begin=100)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=5)
        return cfg

    whole, images = run(config('whole'))
    require_continued(whole, whole, [2, 6])
    assert len(set(sum(images[8:14], []))) == 10  # the sweep: 5 images in a pass of 3 iterations, then the other 5
    log = log_of(tmp_path / 'whole')
    assert 'Coreset for iterations 3 to 6: 5 of 10 images (50.0%), drawn anew in each pass, 10 scored in' in log
    assert 'Coreset for iterations 7 to 8' in log
    assert log.count('From now on training goes evenly through all of the data.') == 1
    for stop, starts in ((5, [6]), (10, [])):  # in the middle of a pass that was drawn anew, and of the sweep
        resumed, rest = run(config(f'from_{stop}'), tmp_path / 'whole' / f'iter_{stop}.pth')
        assert rest == images[stop:]
        require_continued(whole, resumed, starts)


def test_every_epoch_has_its_images_and_a_resumed_run_goes_on(classifier, tmp_path):
    what = dict(
        importance=dict(weights=dict(evs='beta', ds='1 - beta', forgetting=0.1)),
        selector=dict(type='mmacs.GumbelTopK'),
        constraints=dict(class_floor=1, max_gap=2, random_share=0.25),
        schedule=dict(interval=2, warmup=1, full_data_last=2),
    )
    cfg = classifier('whole', 6, **what)
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    whole, images = run(cfg)
    epochs = [sum(images[i : i + 2], []) for i in range(0, 12, 2)]
    assert all(len(set(epoch)) == len(epoch) == 32 for epoch in epochs)
    assert set(epochs[1]) == set(rounds(tmp_path / 'whole')[0]['indices'])
    assert set(epochs[2]) not in (set(epochs[1]), set(epochs[3]))
    assert set(epochs[4]) | set(epochs[5]) == set(range(64))
    for stop, starts in ((1, [2, 6]), (2, [6]), (5, [])):
        resumed, rest = run(classifier(f'from_{stop}', 6, **what), tmp_path / 'whole' / f'epoch_{stop}.pth')
        assert rest == images[2 * stop :]
        require_continued(whole, resumed, starts)


def test_a_run_on_candidates_goes_on_with_its_candidates_and_asks_the_teacher_for_them_alone(classifier, tmp_path):
    what = dict(
        importance=dict(weights=dict(reducible_error='beta', ds='1 - beta'), normalisation='rank'),
        selector=dict(type='mmacs.ClassBalanced', selector=dict(type='mmacs.GumbelTopK', temperature=0.5)),
        constraints=dict(trim=0.2),
        schedule=dict(interval=2),
        cost=dict(candidates=1.5, rescore=0.5),
    )

    def config(name):
        cfg = classifier(name, 6, **what)
        cfg.train_dataloader.sampler.fraction = 0.25
        return cfg

    whole, images = run(config('whole'))
    held = rounds(tmp_path / 'whole')
    assert [record['candidates'].sum() for record in held] == [24, 24, 24]
    assert ((held[0]['scored_at'] == 0) == held[0]['candidates']).all()
    for number, record in enumerate(held):
        shown = set(images[2 * number] + images[2 * number + 1])
        assert (
            len(shown) > 16 and record['candidates'][sorted(shown)].all() and not record['trimmed'][sorted(shown)].any()
        )
    (parts,) = (tmp_path / 'whole' / 'teacher_cache').glob('*.parts')
    seen = [np.load(path / 'mmacs_position.npy') for path in parts.iterdir()]
    assert sorted(np.concatenate(seen)) == np.flatnonzero(held[-1]['scored_at'] >= 0).tolist()
    assert '24 scored in' in log_of(tmp_path / 'whole') and 'candidates 24' in log_of(tmp_path / 'whole')
    resumed, rest = run(config('resumed'), tmp_path / 'whole' / 'epoch_1.pth')
    assert rest == images[1:]
    require_continued(whole, resumed, [2, 4])


def test_harvested_scores_stand_in_for_exact_ones_without_a_teacher(classifier, tmp_path):
    cfg = classifier('run', 2, importance=dict(weights=dict(evs=1.0)), cost=dict(harvest=True, rescore=0.2))
    cfg.train_dataloader.dataset.indices = 128
    cfg.optim_wrapper.type = HalfPrecision
    cfg.custom_hooks = [dict(type='EMAHook')]
    run(cfg)
    first, second = rounds(tmp_path / 'run')
    assert (second['scored_at'][first['indices']] == 1).all()
    assert scalars_of(tmp_path / 'run')[1]['coreset/scored'] < 64
    assert 'rank correlation of harvested with exact evs' in log_of(tmp_path / 'run')
    assert {path.name for path in (tmp_path / 'run').iterdir()}.isdisjoint({'teacher.pth', 'teacher_cache'})


def in_full_precision(cfg: Config) -> Config:
    """The same run without quantization."""
    cfg.model = full_precision_config(cfg.model)
    del cfg.default_hooks['quantization'], cfg.optim_wrapper['constructor']
    return cfg


def test_models_without_quantization_train_on_what_they_get_wrong(classifier, tiny_coco, tmp_path):
    runs = {'classifier': classifier('classifier', 2), 'detector': detector(tiny_coco, tmp_path / 'detector', 2)}
    for name, cfg in runs.items():
        runner, _ = run(in_full_precision(cfg))
        assert next(quantizers(runner.model), None) is None
        (column,) = next(hook for hook in runner.hooks if isinstance(hook, CoresetHook)).settings.scorer.plain_weights
        first, second = rounds(tmp_path / name)
        assert {key for key in first if key.startswith('score_')} == {f'score_{column}'}
        for record in (first, second):
            chosen = np.isin(np.arange(len(record['importance'])), record['indices'])
            assert record['importance'][chosen].min() >= record['importance'][~chosen].max()
        assert f'Importance of an image: {column}, ' in log_of(tmp_path / name)
        assert {path.name for path in (tmp_path / name).iterdir()}.isdisjoint({'teacher.pth', 'teacher_cache'})
    with pytest.raises(MmacsError, match='ds cannot be scored: .* this ImageClassifier is not quantized'):
        run(in_full_precision(classifier('asked', 1, importance=dict(weights=dict(evs='beta', ds='1 - beta')))))


def test_a_detector_that_does_not_move_harvests_its_exact_scores(tiny_coco, tmp_path):
    importance = dict(weights=dict(evs=1.0, loss=1.0))
    cfg = detector(tiny_coco, tmp_path / 'run', importance=importance, cost=dict(harvest=True))
    cfg.optim_wrapper.optimizer.lr = 0.0
    cfg.train_dataloader.batch_size = 1
    cfg.train_cfg.max_epochs = 2  # training before the last round is harvested, after it nobody needs that
    run(cfg)
    state = CoresetState(10, ['evs', 'loss'], Plan(1))
    state.load_state_dict(load_checkpoint(tmp_path / 'run' / 'epoch_1.pth')['mmacs_coreset'])
    trained = rounds(tmp_path / 'run')[0]['indices']
    for column in ('evs', 'loss'):
        assert np.flatnonzero(np.isfinite(state.training_scores[column])).tolist() == trained.tolist()
        np.testing.assert_allclose(state.training_scores[column][trained], state.scores[column][trained], rtol=1e-3)


def test_info_batch_scores_nothing_after_the_first_round(classifier, tmp_path):
    importance = dict(weights=dict(loss=1.0, forgetting=0.0), normalisation='none')
    what = dict(importance=importance, selector=dict(type='mmacs.SoftPruning'), cost=dict(harvest=True, rescore=0.0))
    cfg = classifier('run', 3, unbiased=True, **what)
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type='RandomFlip', prob=0.5, direction='horizontal'))
    _, images = run(cfg)
    assert [record['coreset/scored'] for record in scalars_of(tmp_path / 'run')] == [64, 0, 0]
    records = rounds(tmp_path / 'run')
    for number in (0, 1):
        assert set(np.flatnonzero(records[number + 1]['scored_at'] == number + 1)) == set(
            sum(images[2 * number : 2 * number + 2], [])
        )
    turned_wrong = records[1]['score_correct'] < records[0]['score_correct']
    np.testing.assert_array_equal(records[1]['score_forgetting'], turned_wrong)


@pytest.mark.parametrize('options', [{}, dict(selector=dict(type='mmacs.GumbelTopK'), constraints=dict(class_floor=1))])
def test_unbiased_needs_probabilities(classifier, options):
    with pytest.raises(MmacsError, match='unbiased needs inclusion probabilities: take a selector that draws'):
        run(classifier('run', 1, unbiased=True, **options))


def test_noise_is_counted_and_suspects_are_left_out_of_fast_scoring_beside_distillation(classifier, tmp_path):
    cfg = classifier('run', 2, constraints=dict(trim=0.25), cost=dict(resolution=0.5, precision='bfloat16'))
    data = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='mmacs.NoisyLabels', dataset=data, noise=dict(symmetric=0.3))
    cfg.custom_hooks = [dict(type='mmacs.DistillationHook', from_cache=True)]
    run(cfg)
    caches = {path.name.partition('.')[0] for path in (tmp_path / 'run' / 'teacher_cache').iterdir()}
    assert len(caches) == 2  # soft labels are of images of full size
    log, scalars = log_of(tmp_path / 'run'), scalars_of(tmp_path / 'run')
    for record, seen in zip(rounds(tmp_path / 'run'), scalars):
        chosen, noisy, trimmed = record['indices'], record['noisy'], record['trimmed']
        assert trimmed.sum() == 16 and not trimmed[chosen].any()
        assert seen['coreset/noisy_chosen'] == noisy[chosen].sum() > 0
        assert (
            f'{noisy[chosen].sum()} chosen images are noisy, which is {noisy[chosen].mean():.1%} of the coreset, '
            f'against {noisy.mean():.1%} of all images, {noisy[trimmed].mean():.1%} of the trimmed images are noisy'
        ) in log
    assert 0 < scalars[0]['coreset/proxy_ds'] <= 1 and 'coreset/proxy_ds' not in scalars[1]
    assert log.count(', 16 images trimmed, ') == 2
    assert "Importance of an image: beta reducible_error + (1 - beta) ds, beta 'cosine', normalisation 'rank'; " in log
    assert 'rank correlation of ds with exact scores 0.' in log
    assert 'overlap with the coreset of exact scores' in log


def test_the_teacher_runs_once_for_all_runs_that_see_the_same(classifier, tmp_path, monkeypatch):
    seen = []

    def teacher_outputs(self, teacher, outputs, data_samples, columns, original=ClassificationScorer.teacher_outputs):
        seen.extend(data_samples)
        return original(self, teacher, outputs, data_samples, columns)

    monkeypatch.setattr(ClassificationScorer, 'teacher_outputs', teacher_outputs)

    def shown(name, resume_from=None, epochs=1, **changes):
        """Images that the teacher of a run sees, and the run's log."""
        cfg = classifier(name, epochs, cache_dir=str(tmp_path / 'cache'))
        cfg.train_dataloader.dataset.indices = 128
        cfg.merge_from_dict(changes)
        seen.clear()
        run(cfg, resume_from)
        return len(seen), log_of(tmp_path / name)

    measured = 64  # images that the teacher's cost is measured on
    assert shown('first')[0] == 128 + measured
    weights = dict(reducible_error='beta', ds='1 - beta', margin=0.1)  # the same two and one that needs no teacher
    changes = {'model.recipe': dict(preset='w2a2'), 'default_hooks.coreset.importance': dict(weights=weights)}
    assert shown('second', **changes)[0] == 0
    assert shown('resumed', tmp_path / 'first' / 'epoch_1.pth', 2)[0] == 0
    pipeline = [dict(type='mmpretrain.Resize', scale=40), dict(type='PackInputs')]
    assert shown('resized', **{'val_dataloader.dataset.pipeline': pipeline})[0] == 128 + measured
    assert shown('normalised', **{'data_preprocessor.mean': [0, 0, 0]})[0] == 128 + measured
    other_pixels = dict(data_root=str(tmp_path / 'other_tiles'), spec=dict(num_train=128, num_test=10, seed=1))
    assert shown('other', **{'train_dataloader.dataset': other_pixels})[0] == 128 + measured  # of the same labels
    for path in (tmp_path / 'cache').glob('*/probs.npy'):
        path.write_bytes(path.read_bytes()[:-4] + b'oops')
    images, log = shown('damaged')
    assert images == 128 + measured
    assert 'The teacher runs, because' in log and 'probs.npy is damaged' in log


def test_a_plan_that_a_budget_changed_survives_a_resume(classifier, tmp_path):
    run(classifier('run', 3, cost=dict(budget=0.001)))
    log = log_of(tmp_path / 'run')
    assert 'resolution=0.5 (asked: 1)' in log and 'the cheapest plan, though not within' in log
    assert 'Coreset for epochs 1 to 3: ' in log
    resumed, _ = run(classifier('resumed', 5, cost=dict(budget=0.001)), tmp_path / 'run' / 'epoch_2.pth')
    assert [int(record['epoch']) for record in rounds(tmp_path / 'resumed')] == [3]
    state = load_checkpoint(tmp_path / 'resumed' / 'epoch_5.pth')['mmacs_coreset']
    assert state['plan'][2] == 0.5


def test_a_run_that_would_take_longer_than_full_training_is_refused(classifier):
    cfg = classifier('run', 4, cost=dict(force=False))
    cfg.train_dataloader.sampler.fraction = 0.95
    with pytest.raises(MmacsError, match='of training on all images, a training step taken as three forward passes'):
        run(cfg)


def test_a_resumed_run_refuses_other_columns_and_changed_annotations(tiny_coco, tmp_path):
    run(
        detector(
            tiny_coco, tmp_path / 'run', importance=dict(weights=dict(evs=1.0)), schedule=dict(rounds=1, interval=5)
        )
    )
    assert 'Coreset for epoch 1: ' in log_of(tmp_path / 'run')
    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    with pytest.raises(MmacsError, match=r"has the score columns \['evs'\], the config needs \['sufficiency'"):
        run(detector(tiny_coco, tmp_path / 'columns', 2, importance=dict(weights=dict(sufficiency=1.0))), checkpoint)
    content = json.loads((tiny_coco / 'annotations.json').read_text())
    content['annotations'][0]['bbox'][0] += 1
    (tiny_coco / 'annotations.json').write_text(json.dumps(content))
    with pytest.raises(MmacsError, match='names, order or annotations of the training images are not those'):
        run(detector(tiny_coco, tmp_path / 'changed', 2, importance=dict(weights=dict(evs=1.0))), checkpoint)


def test_batches_without_data_samples_are_told():
    hook = CoresetHook(scorer=dict(type='mmacs.DenseDetectionScorer'))
    with pytest.raises(MmacsError, match='gives no data_samples: does its pipeline end with PackDetInputs?'):
        hook.before_train_iter(None, 0, dict(img=1))


@pytest.mark.parametrize(
    ('steps', 'named'),
    [
        ([dict(type='mmdet.Mosaic')], 'Mosaic'),
        ([dict(type='RandomApply', transforms=dict(type='CachedMixUp'))], 'CachedMixUp'),
        ([dict(type='RandomChoice', transforms=[[dict(type='Resize')], [dict(type='CopyPaste')]])], 'CopyPaste'),
        ([dict(type='RandomChoice', transforms=[[dict(type='Resize')], [dict(type='RandomFlip')]])], None),
    ],
)
def test_harvest_needs_images_that_are_not_mixed(steps, named):
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='A', datasets=[dict(type='B', pipeline=steps)]))))
    if named is None:
        refuse_mixed_images(cfg, 'harvest needs')
    else:
        with pytest.raises(MmacsError, match=f'not mixed in training, and {named} mixes them'):
            refuse_mixed_images(cfg, 'harvest needs')


@pytest.mark.parametrize(('preset', 'redraw'), [('rs2', True), ('static', False)])
def test_presets_that_score_nothing_only_tell_the_sampler(classifier, tmp_path, preset, redraw):
    alone = classifier('alone', 2)
    del alone.default_hooks['coreset']
    alone.train_dataloader.sampler.redraw = redraw
    _, expected = run(alone)
    given = dict(constraints=dict(trim='auto')) if preset == 'rs2' else {}
    whole, images = run(classifier(preset, 2, preset=preset, **given))
    assert images == expected and (set(sum(images[:2], [])) == set(sum(images[2:], []))) != redraw
    assert {path.name for path in (tmp_path / preset).iterdir()}.isdisjoint({'coreset', 'teacher.pth', 'teacher_cache'})
    log = log_of(tmp_path / preset)
    assert f"Preset '{preset}': a random subset, drawn" in log
    unused = 'selector, constraints, schedule, cost. To leave out' if given else 'selector, schedule, cost.'
    assert f"Preset '{preset}' scores nothing, and has no use for {unused}" in log
    resumed, rest = run(classifier('resumed', 2, preset=preset), tmp_path / preset / 'epoch_1.pth')
    assert rest == images[2:]
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(MmacsError, match='by a run without CoresetHook, or with a preset that scores nothing'):
        run(classifier('scored', 2), tmp_path / preset / 'epoch_1.pth')
    with pytest.raises(MmacsError, match=f"preset '{preset}' scores nothing: there is nothing to report"):
        CoresetHook(preset=preset, report=True)


def test_a_run_that_began_before_there_were_presets_keeps_its_defaults(classifier, tmp_path):
    def config(name, **coreset):
        cfg = classifier(name, 3, schedule=dict(interval=2), **coreset)
        del cfg.default_hooks.coreset['selector']
        return cfg

    then = dict(weights=dict(evs='beta', ds='1 - beta'), normalisation='none')
    cfg = config('whole', importance=then)
    cfg.default_hooks.coreset.selector = dict(type='mmacs.TopK')
    whole, images = run(cfg)
    checkpoint = load_checkpoint(tmp_path / 'whole' / 'epoch_1.pth')
    assert checkpoint['mmacs_coreset'].pop('preset') == 'mmacs'
    torch.save(checkpoint, tmp_path / 'whole' / 'before.pth')
    resumed, rest = run(config('resumed'), tmp_path / 'whole' / 'before.pth')
    assert rest == images[2:]
    require_continued(whole, resumed, [4])
    assert 'was written before CoresetHook had presets' in log_of(tmp_path / 'resumed')
    assert 'preset' not in load_checkpoint(tmp_path / 'resumed' / 'epoch_2.pth')['mmacs_coreset']
    with pytest.raises(MmacsError, match=r"has the score columns \['ds', 'evs'\], the config needs"):
        run(config('today'), tmp_path / 'whole' / 'epoch_1.pth')


def test_the_log_says_what_the_default_preset_means_and_what_the_config_changes(classifier, tmp_path):
    cfg = classifier('run', 1, constraints=dict(class_floor=1))
    del cfg.default_hooks.coreset['selector']
    run(cfg)
    log = log_of(tmp_path / 'run')
    assert "Preset 'mmacs': images are drawn in each epoch, " in log
    assert 'The config changes of it: constraints.class_floor=1, schedule.interval=1, cost.force=True.' in log
    assert 'ClassBalanced chooses by it' in log and 'drawn anew in each epoch' in log
    assert re.search(r'\n  rounds +\d+, before epochs? 1', log) and len(re.findall('mmacs .* trains ', log)) == 1
