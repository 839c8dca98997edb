"""Whole runs that learn from what the coreset's rounds keep of the teacher."""

import gc

import pytest
import torch
from mmcv.transforms import TRANSFORMS, BaseTransform

from mmacs.coreset.scoring.scorers import ClassificationScorer
from mmacs.distillation.teachers import LiveTeacher
from mmacs.hooks import DistillationHook
from mmacs.hooks.teacher import _TEACHERS
from mmacs.utils.errors import MmacsError

from .test_coreset_hook import log_of, require_continued, run
from .test_run import weights

pytest.importorskip('mmpretrain')


@TRANSFORMS.register_module()
class MosaicOfOne(BaseTransform):
    """Has the name of a transform that mixes images."""

    def transform(self, results):
        return results


def distilled(cfg, **hook):
    cfg.default_hooks.distillation = dict(type='mmacs.DistillationHook', temperature=2.0, **hook)
    return cfg


def test_soft_labels_of_the_cache_are_those_of_a_teacher_that_sees_the_same_view(classifier, tmp_path, monkeypatch):
    seen, ran = [], []

    def teacher_outputs(self, teacher, outputs, samples, columns, original=ClassificationScorer.teacher_outputs):
        seen.extend(sample.sample_idx for sample in samples)
        return original(self, teacher, outputs, samples, columns)

    def calls(self, *args, original=LiveTeacher.calls):
        ran.append(1)
        return original(self, *args)

    def config(name, **hook):  # trained on as it is scored
        return distilled(classifier(name, 3, schedule=dict(warmup=1), cache_dir=str(tmp_path / name / 'cache')), **hook)

    live, images = run(config('live'))
    monkeypatch.setattr(ClassificationScorer, 'teacher_outputs', teacher_outputs)
    monkeypatch.setattr(LiveTeacher, 'calls', calls)
    cached, same_images = run(config('cached', from_cache=True))
    assert same_images == images and not ran
    assert set(sum(images, [])) <= set(seen) and len(seen) == 64  # each once, before the warm-up; costs are known then
    for one, other in zip(weights(live).values(), weights(cached).values()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    gc.collect()
    assert _TEACHERS[cached].teacher() is None  # nobody holds it any more
    assert 'it says of the view that is scored.' in log_of(tmp_path / 'cached')

    seen.clear()
    again = config('resumed', from_cache=True)
    again.default_hooks.coreset.cache_dir = str(tmp_path / 'cached' / 'cache')
    resumed, rest = run(again, tmp_path / 'cached' / 'epoch_1.pth')
    assert rest == images[2:] and not seen
    require_continued(cached, resumed, [2, 4])


def test_a_sweep_beyond_the_candidates_goes_on_in_the_middle(classifier, tmp_path):
    def config(name):
        what = dict(schedule=dict(interval=4, full_data_last=6), cost=dict(candidates=1.25))
        cfg = distilled(classifier(name, 1, cache_dir=str(tmp_path / 'cache'), **what), from_cache=True)
        cfg.train_dataloader.dataset.pipeline = [
            dict(type='mmpretrain.RandomFlip', prob=0.5),
            dict(type='RandomApply', transforms=[dict(type='mmpretrain.RandomErasing')], prob=0.5),
            dict(type='PackInputs'),
        ]
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=10, val_begin=100)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=5)
        return cfg

    whole, images = run(config('whole'))
    assert 'view that is scored, whatever RandomFlip, RandomApply, RandomErasing make of it' in log_of(
        tmp_path / 'whole'
    )
    assert len(list((tmp_path / 'cache').glob('*.parts/*/cache.json'))) > 2  # of two rounds, and of the sweep
    resumed, rest = run(config('resumed'), tmp_path / 'whole' / 'iter_5.pth')
    assert rest == images[5:]
    require_continued(whole, resumed, [])


def test_what_no_cache_can_teach_is_refused_before_training(classifier):
    teacher = dict(config='a.py', checkpoint='other.pth')
    for settings, message in (
        (dict(teacher=teacher), "not of the teacher 'other.pth': leave out teacher or from_cache"),
        (dict(layers='backbone.*'), r"layers='backbone.\*' corrects features"),
    ):
        with pytest.raises(MmacsError, match=message):
            DistillationHook(from_cache=True, **settings)
    with pytest.raises(MmacsError, match="from_cache must be True or False, got 'yes'"):
        DistillationHook(from_cache='yes')

    without = classifier('without', 1)
    without.default_hooks.pop('coreset')
    mixed = classifier('mixed', 1)
    mixed.train_dataloader.dataset.pipeline.insert(0, dict(type='MosaicOfOne'))
    cut = classifier('cut', 1)
    cut.model.train_cfg = dict(augments=[dict(type='CutMix', alpha=1.0)])
    for cfg, message in (
        (without, 'keep of the teacher.s outputs, and this run has no CoresetHook: leave out from_cache'),
        (classifier('rs2', 1, preset='rs2'), "this run has preset='rs2', without rounds: leave out from_cache"),
        (
            classifier('hard', 1, importance=dict(weights=dict(reducible_error=1.0))),
            'ClassificationScorer keeps where it scores ds or kl, and this run scores reducible_error: give ds',
        ),
        (mixed, 'from_cache needs images that are not mixed in training, and MosaicOfOne mixes them'),
        (cut, 'batch_augments of the data preprocessor mixes them'),
    ):
        with pytest.raises(MmacsError, match=message):
            run(distilled(cfg, from_cache=True))
