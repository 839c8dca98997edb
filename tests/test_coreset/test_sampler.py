import numpy as np
import pytest
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner

import mmacs.coreset.sampler as module
from mmacs.coreset import CoresetSampler
from mmacs.coreset.sampler import swept_indices
from mmacs.utils.errors import MmacsError


def test_registered_and_length_is_final_from_construction():
    sampler = DATA_SAMPLERS.build(dict(type='mmacs.CoresetSampler', dataset=range(10), fraction=0.3))
    assert len(sampler) == 3
    sampler.set_indices(np.array([7, 1, 4]))
    assert len(sampler) == 3
    assert sorted(sampler) == [1, 4, 7]
    assert all(isinstance(index, int) for index in sampler)  # data sets get plain ones, see test_items.py


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = CoresetSampler(range(100), 0.5, seed=seed)
        sampler.set_indices(np.arange(50))
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 3) == order(1, 3)
    orders = [order(seed, epoch) for seed in (3, 4) for epoch in range(12)]
    assert len(set(map(tuple, orders))) == 24  # no epoch of one seed is one of the other


def test_seeds_share_no_subset_in_any_epoch():
    def subsets(seed):
        sampler = CoresetSampler(range(100), 0.1, seed=seed)
        for epoch in range(12):
            sampler.set_epoch(epoch)
            yield frozenset(sampler)

    drawn = {seed: list(subsets(seed)) for seed in (3, 4, 2**40)}
    assert drawn[3] == list(subsets(3))
    assert len(set().union(*drawn.values())) == 36
    common = [len(one & other) for one in drawn[3] for other in drawn[4]]  # expected: one image in ten
    assert np.mean(common) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize('seed', [-1, 1.5, 'abc', 10**23, True, [0]])
def test_a_seed_that_is_none_is_refused_in_one_sentence(seed):
    with pytest.raises(MmacsError, match=r'^seed of CoresetSampler must be a whole number from 0 to 2\^63 - 1'):
        CoresetSampler(range(10), 0.3, seed=seed)


def test_without_a_hook_it_is_repeated_random_or_static_random():
    repeated, static = CoresetSampler(range(100), 0.2, seed=0), CoresetSampler(range(100), 0.2, seed=0, redraw=False)
    drawn = {True: [], False: []}
    for epoch in range(3):
        for sampler in (repeated, static):
            sampler.set_epoch(epoch)
            drawn[sampler.redraw].append(frozenset(sampler))
    assert len(set(drawn[True])) == 3
    assert len(set(drawn[False])) == 1


def test_a_schedule_of_the_fraction_changes_the_length_by_epoch():
    fraction = dict(type='oscillating', start=0.3, end=0.1)
    for redraw in (True, False):
        sampler = CoresetSampler(range(100), fraction, redraw=redraw, seed=0)
        assert len(sampler) == 20 and sampler.fraction == pytest.approx(0.2)
        with pytest.raises(MmacsError, match='needs to know the number of epochs'):
            iter(sampler)
        sampler.plan(4, 5, 4)
        assert len(sampler) == 20  # what schedules of learning rates are made of
        drawn = []
        for epoch in range(4):
            sampler.set_epoch(epoch)
            drawn.append(set(sampler))
            assert len(drawn[-1]) == len(sampler) == (30, 10, 30, 10)[epoch]
        assert (drawn[0] == drawn[2]) != redraw and (drawn[1] < drawn[0]) != redraw


@pytest.mark.parametrize(('size', 'images'), [(1, 7), (3, 10), (5, 10), (7, 10), (99, 100), (10, 10)])
def test_a_sweep_shows_every_image_once_before_any_twice(size, images):
    epochs = [swept_indices(4, epoch, size, images) for epoch in range(3 * images)]
    assert all(len(np.unique(epoch)) == size for epoch in epochs)
    rows = np.concatenate(epochs).reshape(-1, images)
    assert (np.sort(rows) == np.arange(images)).all()
    assert len(np.unique(rows, axis=0)) > 1


def test_a_sweep_is_even_where_permutations_meet():
    """Epochs 1 of many sweeps lie over the end of the first permutation; no image is favoured."""
    counts = sum(np.bincount(swept_indices(seed, 1, 7, 10), minlength=10) for seed in range(2000))
    assert np.abs(counts - 1400).max() < 4 * (2000 * 0.7 * 0.3) ** 0.5


def test_a_sweep_begins_at_its_epoch_is_a_function_of_it_and_ends_with_new_indices():
    def epoch(sampler, number):
        sampler.set_epoch(number)
        return sampler.epoch_indices().tolist()

    sampler, resumed = CoresetSampler(range(10), 0.3, seed=1), CoresetSampler(range(10), 0.3, seed=1)
    sampler.set_indices(np.array([7, 1, 4]))
    sampler.sweep(5)
    resumed.sweep(5)
    assert sorted(epoch(sampler, 4)) == [1, 4, 7]
    swept = [epoch(sampler, number) for number in range(5, 12)]
    assert epoch(resumed, 11) == swept[-1]
    assert len(set(sum(swept[:3], []))) == 9
    assert sorted(swept[0]) == sorted(swept_indices(1, 0, 3, 10))
    sampler.set_indices(np.array([7, 1, 4]))
    assert sorted(epoch(sampler, 6)) == [1, 4, 7]


@pytest.mark.parametrize('world_size', [1, 2, 3, 4])
def test_processes_share_one_epoch_between_them(monkeypatch, world_size):
    shards = []
    for rank in range(world_size):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, world_size))
        sampler = CoresetSampler(range(40), 0.25, seed=5)
        sampler.set_indices(np.arange(0, 40, 4))
        shards.append(list(sampler))
        assert len(shards[-1]) == len(sampler)
    interleaved = [index for group in zip(*shards) for index in group]
    assert interleaved[:10] == sampler.epoch_indices().tolist()
    assert set(interleaved) == set(range(0, 40, 4))


@pytest.mark.parametrize(
    ('indices', 'message'),
    [([1, 2], '3 distinct images, got 2 of 2'), ([1, 1, 2], 'got 2 of 3'), ([1, 2, 10], 'from 0 to 9')],
)
def test_wrong_indices(indices, message):
    with pytest.raises(MmacsError, match=message):
        CoresetSampler(range(10), 0.3).set_indices(np.array(indices))


def test_under_the_aspect_ratio_batch_sampler_and_persistent_workers(tiny_coco):
    cfg = Config(
        dict(
            batch_size=2,
            num_workers=1,
            persistent_workers=True,
            sampler=dict(type='mmacs.CoresetSampler', fraction=0.5, seed=0),
            batch_sampler=dict(type='AspectRatioBatchSampler'),
            dataset=dict(
                type='CocoDataset',
                data_root=str(tiny_coco),
                ann_file='annotations.json',
                data_prefix=dict(img='images'),
                metainfo=dict(classes=('a', 'b', 'c')),
                filter_cfg=dict(filter_empty_gt=True, min_size=1),
                pipeline=[dict(type='LoadImageFromFile'), dict(type='PackDetInputs')],
            ),
        )
    )
    loader = Runner.build_dataloader(cfg, seed=0)
    assert isinstance(loader.batch_sampler, AspectRatioBatchSampler)
    sampler = loader.sampler if isinstance(loader.sampler, CoresetSampler) else loader.batch_sampler.sampler
    assert len(sampler.dataset) == 10  # two images have no objects
    for chosen in ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9]):
        sampler.set_indices(np.array(chosen))
        seen = [sample.img_id for batch in loader for sample in batch['data_samples']]
        assert sorted(seen) == sorted(sampler.dataset.get_data_info(index)['img_id'] for index in chosen)
        assert len(loader) == 3
