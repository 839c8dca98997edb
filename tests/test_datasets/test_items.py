"""What the pipeline of an image draws is a function of seed, epoch and index alone."""

import pickle
import random

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset, Subset

import mmacs.coreset.sampler as sampler_module
from mmacs.coreset import CoresetSampler
from mmacs.datasets.items import NUM_OTHERS, Item, items, load_by_items

from .test_distinct_images import coco

AUGMENTED = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomCrop', crop_size=(40, 48), allow_negative_crop=False),  # drops images
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]


@pytest.fixture
def augmented(tiny_coco):
    """A data set under transforms that draw, without the images that have no objects."""
    config = coco(tiny_coco, filter_cfg=dict(filter_empty_gt=True, min_size=1))
    return DATASETS.build({**config, 'pipeline': AUGMENTED})


def drawn(loader):
    """What the items of an epoch look like, by the image that they were asked for."""
    indices = [index for batch in loader.batch_sampler for index in batch]
    pictures = [image for batch in loader for image in batch['inputs']]
    return {int(index): image.numpy().tobytes() for index, image in zip(indices, pictures)}


def make_loader(dataset, epoch=0, batch_size=2, seed=0, shuffle=True, indices=range(10), **settings):
    sampler = CoresetSampler(dataset, len(indices) / len(dataset), shuffle=shuffle, seed=seed)
    sampler.set_indices(np.asarray(indices))
    sampler.set_epoch(epoch)
    return DataLoader(dataset, batch_size, sampler=sampler, collate_fn=pseudo_collate, **settings)


def test_draws_depend_neither_on_workers_nor_on_batches(augmented):
    expected = drawn(make_loader(augmented))
    assert len(set(expected.values())) == 10
    assert drawn(make_loader(augmented, batch_size=3)) == expected
    assert drawn(make_loader(augmented, num_workers=2)) == expected
    persistent = make_loader(augmented, epoch=4, batch_size=3, num_workers=2, persistent_workers=True)
    drawn(persistent)
    persistent.sampler.set_epoch(0)  # workers that live on draw for the epoch that it is now
    assert drawn(persistent) == expected
    other = [drawn(make_loader(augmented, epoch=1)), drawn(make_loader(augmented, seed=1))]
    assert all(found[index] != expected[index] for found in other for index in expected)


def test_processes_draw_what_one_draws(augmented, monkeypatch):
    expected, found = drawn(make_loader(augmented)), {}
    for rank in range(2):
        monkeypatch.setattr(sampler_module, 'get_dist_info', lambda rank=rank: (rank, 2))
        found.update(drawn(make_loader(augmented)))
    assert found == expected


def test_the_random_state_of_the_process_stays(augmented):
    loader = make_loader(augmented, num_workers=0)
    batches = iter(loader)  # draws a seed for workers
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    list(batches)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


class Own(Dataset):
    """A data set of somebody's own, which looks closely at its indices."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        assert type(index) is int
        return index, random.random(), np.random.rand(), torch.rand(()).item()


@pytest.mark.parametrize('wrap', [lambda own: own, lambda own: Subset(own, range(8))])
def test_data_sets_of_ones_own_get_plain_indices_under_three_generators(wrap):
    def values(epoch):
        found = [row for batch in make_loader(wrap(Own()), epoch, indices=range(4), batch_size=2) for row in batch]
        return np.asarray(found, dtype=float).reshape(-1, 4, 2).transpose(0, 2, 1).reshape(-1, 4)

    one, again, other = values(0), values(0), values(1)
    assert (one == again).all()
    assert len(np.unique(one[:, 1:])) == 12
    assert not np.isin(one[:, 1:], other[:, 1:]).any()


def test_a_loader_with_indices_of_its_own_draws_as_before():
    dataset = Own()
    load_by_items(dataset)
    torch.manual_seed(5)
    expected = [torch.rand(()).item() for _ in range(4)]
    torch.manual_seed(5)
    assert [row[3] for row in dataset.__getitems__(list(range(4)))] == expected


def test_others_are_of_the_epoch_and_all_alike():
    order = np.random.default_rng(0).permutation(1000)[:100]
    found = pickle.loads(pickle.dumps(list(items(order, range(100), 3, 7))))
    assert [int(item) for item in found] == order.tolist()
    assert {(item.seed, item.epoch) for item in found} == {(3, 7)}
    for item in found:
        assert len(set(item.others)) == NUM_OTHERS
        assert set(item.others) < set(order.tolist()) - {int(item)}
    counts = np.bincount([other for item in found for other in item.others])
    assert set(counts[order].tolist()) == {NUM_OTHERS}
    assert found[0].others != next(items(order, [0], 3, 8)).others
    assert next(items(np.array([5]), [0], 3, 7)).others == (5,)


def test_what_is_no_number_is_loaded_as_it_is():
    """Samplers of videos give pairs of a video and a frame."""
    order = np.arange(4)
    mixed = list(items(order, [np.int64(2), (1, 5), torch.tensor(3)], 0, 0))
    assert mixed == [2, (1, 5), 3] and [type(one) for one in mixed] == [Item, tuple, Item]
    assert set(mixed[2].others) == {0, 1, 2}


def test_what_takes_no_attributes_is_left_alone():
    load_by_items(range(3))
    assert isinstance(next(iter(CoresetSampler(range(3), seed=0))), Item)
