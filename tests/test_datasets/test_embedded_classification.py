import random

import numpy as np
import pytest

pytest.importorskip('mmpretrain')

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.evaluation import Accuracy

from mmacs.datasets.shape_tiles import CLASSES, ClassificationSpec, draw_tile, write_classification
from mmacs.utils.errors import MmacsError

SPEC = dict(num_train=60, num_test=20)
PIPELINE = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return str(tmp_path_factory.mktemp('data') / 'embedded_classification')


@pytest.fixture(autouse=True)
def mmpretrain_scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def build(data_root, **kwargs):
    config = dict(type='mmacs.EmbeddedClassification', data_root=data_root, spec=SPEC, pipeline=PIPELINE)
    return DATASETS.build(Config({**config, **kwargs}))


def test_draws_then_loads_both_splits(data_root):
    train, test = build(data_root), build(data_root, split='test', test_mode=True)
    assert len(train) == 60 and len(test) == 20
    assert train.CLASSES == CLASSES and len(CLASSES) == 10
    assert train.get_data_info(0)['img'].tolist() != test.get_data_info(0)['img'].tolist()


def test_classes_have_equal_shares(data_root):
    assert np.bincount(build(data_root).get_gt_labels()).tolist() == [6] * 10


def test_samples_are_those_of_cifar(data_root):
    sample = build(data_root)[3]
    assert sample['inputs'].shape == (3, 32, 32) and sample['inputs'].dtype == torch.uint8
    assert sample['data_samples'].gt_label.tolist() == [3]


def test_labels_as_predictions_score_one(data_root):
    dataset = build(data_root, split='test', pipeline=[dict(type='PackInputs')])
    samples = pseudo_collate([dataset[i] for i in range(len(dataset))])['data_samples']
    predictions = [sample.set_pred_label(sample.gt_label).to_dict() for sample in samples]
    metric = Accuracy()
    metric.process({}, predictions)
    assert metric.evaluate(len(dataset))['accuracy/top1'] == 100


def test_repr_names_the_folder(data_root):
    assert data_root in repr(build(data_root))


def test_the_same_spec_gives_the_same_bytes(tmp_path):
    folders = tmp_path / 'first', tmp_path / 'second', tmp_path / 'other'
    for folder, seed in zip(folders, (0, 0, 1)):
        folder.mkdir()
        write_classification(folder, ClassificationSpec(num_train=10, num_test=10, seed=seed))
    first, second, other = ((folder / 'train.npz').read_bytes() for folder in folders)
    assert first == second != other


def test_a_tile_does_not_depend_on_how_many_there_are(data_root, tmp_path):
    build(data_root)
    write_classification(tmp_path, ClassificationSpec(num_train=10, num_test=0))
    with np.load(tmp_path / 'train.npz') as few, np.load(f'{data_root}/train.npz') as many:
        assert (few['img'] == many['img'][:10]).all()
        assert few['difficulty'].min() >= 0 and few['difficulty'].max() <= 1


def test_global_random_states_stay_untouched():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    draw_tile(np.random.default_rng(0), label=0)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_another_spec_for_the_same_folder_is_refused(data_root):
    build(data_root)
    with pytest.raises(MmacsError, match='num_test is 20 instead of 30'):
        build(data_root, spec={**SPEC, 'num_test': 30})


def test_unknown_split_is_named(data_root):
    with pytest.raises(MmacsError, match="unknown split 'tests': did you mean 'test'"):
        build(data_root, split='tests')
