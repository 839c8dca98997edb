"""Scoring passes over a narrow W4A4 RetinaNet: the same scores however images are brought to it, and no trace left."""

import copy
import random

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from mmacs.coreset.data import TrainingData
from mmacs.coreset.scoring import scoring_pass as scoring
from mmacs.coreset.scoring.measure import FewRows
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scorers import DenseDetectionScorer
from mmacs.coreset.scoring.scores import round_scores
from mmacs.coreset.scoring.scoring_pass import ScoringPass, split_by_padded_shape
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import calibrate, quantize_model, quantizers
from mmacs.teacher.model import make_teacher
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO, write_coco

COLUMNS = ['evs', 'ds']
ALL = list(DenseDetectionScorer.columns)
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]


def narrow_retinanet():
    """As the fixture ``tiny_retinanet``, with scores that are not all alike."""
    cfg = ConfigDict(full_precision_config(Config.fromfile(REPO / 'configs' / 'retinanet_r18_w4a4_acs.py').model))
    cfg.backbone.base_channels = 8
    cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    cfg.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
    model = MODELS.build(cfg)
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.1)
    return model


def repeated_data(folder):
    """12 images of three shapes, landscape and portrait, two without objects; each stands behind two indices."""
    data_set = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='annotations.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=PIPELINE,
    )
    repeated = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=data_set))
    return TrainingData.read(DistinctImages(repeated, PIPELINE))


class Setting:
    """A calibrated model, its teacher, and images."""

    def __init__(self, folder):
        write_coco(folder, [(64, 96), (96, 64), (64, 64)] * 4, [1, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3])
        self.data, self.scorer = repeated_data(folder), DenseDetectionScorer()
        self.model = quantize_model(narrow_retinanet(), 'w4a4')
        batch = self.model.data_preprocessor(pseudo_collate([self.data.images[position] for position in range(8)]))
        calibrate(self.model, [batch], lambda data: self.model(**data, mode='predict'))
        self.model.train()
        self.teacher = make_teacher(self.model)
        self.rows = FewRows()
        ScoringPass(self.data, 4).teacher_outputs(self.scorer, self.teacher, ALL, np.arange(12), self.rows.write)

    def scores(self, positions=range(12), batch_size=4, num_workers=0, model=None, columns=COLUMNS):
        positions = np.asarray(positions, dtype=np.int64)
        scoring_pass = ScoringPass(self.data, batch_size, num_workers)
        return scoring_pass.scores(self.scorer, model or self.model, positions, columns, self.rows.read)


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return Setting(tmp_path_factory.mktemp('scoring') / 'coco')


@pytest.fixture(scope='module')
def exact(setting):
    """Scores of all images in batches of 4."""
    return setting.scores()


def assert_same(found, expected):
    for name in COLUMNS:
        np.testing.assert_array_equal(found[name], expected[name], name)


def test_scores_tell_images_apart(exact):
    for name in COLUMNS:
        assert exact[name].dtype == np.float32 and len(np.unique(exact[name])) == 12
        assert np.isfinite(exact[name]).all() and exact[name].min() > 0


def test_workers_change_nothing(setting, exact):
    assert_same(setting.scores(num_workers=2), exact)


def test_scores_come_in_the_order_that_was_asked_for(setting, exact):
    order = np.random.default_rng(0).permutation(12)
    assert_same(setting.scores(order), {name: column[order] for name, column in exact.items()})


def test_no_images_have_no_scores(setting):
    assert {name: column.shape for name, column in setting.scores([]).items()} == {'evs': (0,), 'ds': (0,)}


OTHER_BATCHES = [
    dict(batch_size=1),
    dict(batch_size=2),
    dict(batch_size=8),
    dict(batch_size=100),
    dict(positions=[3]),
    dict(positions=[0, 4, 5, 11]),
]


@pytest.mark.parametrize('batches', OTHER_BATCHES, ids=str)
def test_in_other_batches_a_sum_in_another_order_may_move_an_activation_by_a_level(setting, exact, batches):
    positions = batches.get('positions', range(12))
    found = setting.scores(**batches)
    for name in COLUMNS:  # usually all are equal
        np.testing.assert_allclose(found[name], exact[name][positions], rtol=0.02)


@pytest.mark.parametrize('batches', OTHER_BATCHES[:3], ids=str)
def test_in_full_precision_other_batches_change_only_scores_at_the_edge_of_rounding(setting, batches):
    own = dict(model=setting.teacher, columns=['evs', 'loss'])
    found, expected = setting.scores(**batches, **own), setting.scores(**own)
    for name in own['columns']:
        np.testing.assert_allclose(found[name], expected[name], rtol=1.01 * 2.0**-13)
        assert (found[name] == expected[name]).mean() > 0.6


@pytest.mark.parametrize('world_size', [1, 2, 3, 4, 5])
def test_processes_share_the_images_and_their_sum_is_what_one_gives(setting, exact, monkeypatch, world_size):
    monkeypatch.setattr(scoring, 'all_reduce', lambda column: None)
    parts = []
    for rank in range(world_size):
        monkeypatch.setattr(scoring, 'get_dist_info', lambda rank=rank: (rank, world_size))
        parts.append(setting.scores())
    assert (np.count_nonzero([part['evs'] for part in parts], axis=0) == 1).all()  # each image by one process
    assert_same({name: sum(part[name] for part in parts) for name in COLUMNS}, exact)


@pytest.mark.parametrize('world_size', [1, 3])
def test_what_the_teacher_says_is_known_without_images_and_the_quantized_model(setting, monkeypatch, world_size):
    expected = setting.scores(columns=['evs', 'teacher_error'])['teacher_error']
    monkeypatch.setattr(scoring, 'all_reduce', lambda column: None)
    monkeypatch.setattr(scoring, 'DataLoader', None)  # loads nothing
    found = np.zeros(12, dtype=np.float32)
    for rank in range(world_size):
        monkeypatch.setattr(scoring, 'get_dist_info', lambda rank=rank: (rank, world_size))
        found += setting.scores(columns=['teacher_error'])['teacher_error']
    np.testing.assert_array_equal(found, expected)


def everything_that_must_stay(model):
    found = {
        'training': [module.training for module in model.modules()],
        'gradients': [parameter.requires_grad for parameter in model.parameters()],
        'quantizers': [(q.enabled, q.observing, q.calls, q.bits) for _, q in quantizers(model)],
        'hooks': sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()),
        'python': random.getstate(),
        'torch': torch.get_rng_state().tolist(),
        'numpy': [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        'grad mode': torch.is_grad_enabled(),
    }
    return found, copy.deepcopy(model.state_dict())


def assert_nothing_changed(model, before):
    settings, weights = everything_that_must_stay(model)
    assert settings == before[0]
    assert list(weights) == list(before[1])
    assert all(torch.equal(weights[key], before[1][key]) for key in weights)


@pytest.fixture
def in_training(setting):
    """The model after a training step, parts of it in eval mode, as where stages are frozen."""
    model = copy.deepcopy(setting.model)
    batch = model.data_preprocessor(pseudo_collate([setting.data.images[0], setting.data.images[3]]), True)
    model(**batch, mode='loss')
    model.backbone.bn1.eval()
    model.bbox_head.retina_cls.weight_quantizer.eval()
    return model


@pytest.mark.parametrize('workers', [0, 1])
def test_scoring_changes_nothing(setting, in_training, workers):
    before = everything_that_must_stay(in_training)
    setting.scores(model=in_training, columns=['evs', 'ds', 'sufficiency', 'metric_gap', 'loss', 'grad'])
    setting.scores([0, 1], model=in_training, num_workers=workers)
    ScoringPass(setting.data, 4).teacher_outputs(setting.scorer, in_training, ALL, np.arange(3), lambda *rows: None)
    assert_nothing_changed(in_training, before)


def test_scoring_that_fails_changes_nothing_either(setting, in_training, monkeypatch):
    before = everything_that_must_stay(in_training)
    done = []

    def fail(*arguments):
        done.append(random.random() + np.random.rand() + torch.rand(1).item())
        if len(done) == 2:
            raise KeyboardInterrupt
        return {name: torch.zeros(len(arguments[2])) for name in COLUMNS}

    monkeypatch.setattr(setting.scorer, 'score', fail)
    with pytest.raises(KeyboardInterrupt):
        setting.scores(model=in_training)
    assert_nothing_changed(in_training, before)


def test_a_model_that_was_never_calibrated_is_refused(setting):
    model = quantize_model(narrow_retinanet(), 'w4a4')
    before = everything_that_must_stay(model)
    with pytest.raises(MmacsError, match='was never calibrated'):
        setting.scores(model=model)
    assert_nothing_changed(model, before)


def test_images_are_padded_only_with_those_that_are_padded_alike(setting):
    sizes = [(64, 96), (96, 64), (50, 70), (64, 64), (90, 33)]  # padded to multiples of 32
    batch = pseudo_collate([setting.data.images[position] for position in range(5)])
    batch['inputs'] = [image.new_full((3, *size), i + 1) for i, (image, size) in enumerate(zip(batch['inputs'], sizes))]
    parts = split_by_padded_shape(setting.model, batch)
    assert [members for members, _, _ in parts] == [[0, 2], [1, 4], [3]]
    assert [tuple(inputs.shape[-2:]) for _, inputs, _ in parts] == [(64, 96), (96, 64), (64, 64)]
    assert [[sample.img_id for sample in samples] for _, _, samples in parts] == [[1, 3], [2, 5], [4]]
    alone = setting.model.data_preprocessor({key: values[2:3] for key, values in batch.items()}, False)
    assert torch.equal(parts[0][1][1:], alone['inputs'])


def test_images_of_one_shape_come_together(setting):
    shapes = [(info['height'], info['width']) for info in map(setting.data.images.info, setting.data.by_shape)]
    assert len(shapes) == 12 and sum(one != other for one, other in zip(shapes, shapes[1:])) == 2


def test_scores_are_rounded_to_14_significant_bits():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000) * 10.0 ** rng.integers(-30, 30, 1000)
    values = torch.from_numpy(np.sort(values))
    rounded = round_scores(values)
    torch.testing.assert_close(rounded, values, rtol=2.0**-14, atol=0)
    assert torch.equal(round_scores(rounded), rounded)
    assert torch.equal(round_scores(-values), -rounded)
    assert torch.equal(round_scores(values.float()).double(), round_scores(values.float().double()))
    mantissas = torch.frexp(rounded).mantissa * 2**14
    assert torch.equal(mantissas, mantissas.round())
    assert (rounded.diff() >= 0).all()


def test_rounding_keeps_what_has_no_digits():
    values = torch.tensor([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf])
    torch.testing.assert_close(round_scores(values), values, rtol=0, atol=0, equal_nan=True)
    assert round_scores(torch.zeros(0)).shape == (0,)


def test_a_score_that_is_not_finite_is_handed_on(setting, monkeypatch):
    def broken(model, outputs, samples, teacher_outputs, columns):
        return {'evs': torch.tensor([float('nan') if s.img_id == 5 else 1.0 for s in samples])}

    monkeypatch.setattr(setting.scorer, 'score', broken)
    assert np.flatnonzero(np.isnan(setting.scores(columns=['evs'])['evs'])).tolist() == [4]


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_all_columns_at_half_the_resolution_and_precision(setting, exact, precision):
    proxy, rows = Proxy(0.5, precision), FewRows()
    cheap = ScoringPass(setting.data, 4, proxy=proxy)
    cheap.teacher_outputs(setting.scorer, setting.teacher, ALL, np.arange(12), rows.write)
    found = cheap.scores(setting.scorer, setting.model, np.arange(12), ALL, rows.read)
    assert set(found) == set(ALL)
    for name, column in found.items():
        assert np.isfinite(column).all(), name
    assert not np.array_equal(found['evs'], exact['evs'])
    itself = cheap.scores(setting.scorer, setting.teacher, np.arange(12), ['ds'], rows.read)
    assert itself['ds'].max() < 0.05 < found['ds'].max()
