import numpy as np
import pytest
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS
from mmengine.runner import Runner

import mmacs.coreset.sampler as module
from mmacs.coreset import CoresetSampler
from mmacs.errors import MmacsError


def test_registered_and_length_is_final_from_construction():
    sampler = DATA_SAMPLERS.build(dict(type='mmacs.CoresetSampler', dataset=range(10), fraction=0.3))
    assert len(sampler) == 3
    sampler.set_indices(np.array([7, 1, 4]))
    assert len(sampler) == 3
    assert sorted(sampler) == [1, 4, 7]


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = CoresetSampler(range(100), 0.5, seed=seed)
        sampler.set_indices(np.arange(50))
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(1, 3) == order(1, 3)
    assert order(1, 3) != order(1, 4)
    assert order(1, 3) != order(2, 3)


def test_without_a_hook_it_is_repeated_random_or_static_random():
    repeated, static = CoresetSampler(range(100), 0.2, seed=0), CoresetSampler(range(100), 0.2, seed=0, redraw=False)
    drawn = {True: [], False: []}
    for epoch in range(3):
        for sampler in (repeated, static):
            sampler.set_epoch(epoch)
            drawn[sampler.redraw].append(frozenset(sampler))
    assert len(set(drawn[True])) == 3
    assert len(set(drawn[False])) == 1


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
