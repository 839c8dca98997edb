"""Images that are mixed into others, or shown in their place, are of the coreset of the epoch."""

import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import DATASETS
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmacs.adapters.mmengine.partners import mixing_transforms
from mmacs.coreset import CoresetSampler
from tests.conftest import write_coco

LOADING = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACKING = [dict(type='PackDetInputs')]
MOSAIC = dict(type='Mosaic', img_scale=(64, 64))
MIXUP = dict(type='MixUp', img_scale=(64, 64))
CACHED_MOSAIC = dict(type='CachedMosaic', img_scale=(64, 64), max_cached_images=4, random_pop=False)
CACHED_MIXUP = dict(type='CachedMixUp', img_scale=(64, 64), max_cached_images=2)
CROP = dict(type='RandomCrop', crop_size=(20, 20), allow_negative_crop=False)  # drops what shows no object
SQUARE, PASTE = dict(type='Resize', scale=(40, 40)), dict(type='CopyPaste', paste_by_box=True)
HIDING = dict(type='RandomApply', transforms=[CACHED_MOSAIC], prob=1.0)


@pytest.fixture
def build(tmp_path):
    """Builds data sets of 40 images, a few without objects."""
    for name in 'ab':
        write_coco(tmp_path / name, [(32, 48), (48, 32), (40, 40), (32, 32)] * 5, [1, 2, 3, 0] * 5, seed=ord(name))

    def build(pipeline, name='a'):
        return dict(
            type='CocoDataset',
            data_root=str(tmp_path / name),
            ann_file='annotations.json',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=('a', 'b', 'c')),
            pipeline=pipeline,
        )

    return build


def mixing(dataset, *transforms):
    return dict(type='MultiImageMixDataset', dataset=dataset, pipeline=[*transforms, *PACKING])


DATA = {
    'Mosaic': (lambda build: mixing(build(LOADING), MOSAIC), ['Mosaic']),
    'Mosaic and MixUp': (lambda build: mixing(build(LOADING), MOSAIC, MIXUP), ['Mosaic', 'MixUp']),
    'CopyPaste': (lambda build: mixing(build([*LOADING, SQUARE]), PASTE), ['CopyPaste']),
    'cached': (
        lambda build: build([*LOADING, CACHED_MOSAIC, CROP, CACHED_MIXUP, *PACKING]),
        ['CachedMosaic', 'CachedMixUp'],
    ),
    'cached, within another': (lambda build: build([*LOADING, HIDING, *PACKING]), ['CachedMosaic']),
    'dropped': (lambda build: build([*LOADING, CROP, *PACKING]), []),
    'dropped where partners are loaded': (lambda build: mixing(build([*LOADING, CROP]), MOSAIC), ['Mosaic']),
}


def epoch_of(dataset, monkeypatch, indices, number=0, batch_size=3):
    """The images that an epoch reads, and its items."""
    read, load = [], LoadImageFromFile.transform

    def count(transform, results):
        read.append(results['img_path'])
        return load(transform, results)

    sampler = CoresetSampler(dataset, len(indices) / len(dataset), seed=0)
    sampler.set_indices(np.asarray(indices))
    sampler.set_epoch(number)
    with monkeypatch.context() as patch:
        patch.setattr(LoadImageFromFile, 'transform', count)
        batches = list(DataLoader(dataset, batch_size, sampler=sampler, collate_fn=pseudo_collate))
    order = [int(index) for index in sampler]
    pictures = [image.numpy().tobytes() for batch in batches for image in batch['inputs']]
    return read, dict(zip(order, pictures))


@pytest.mark.parametrize('name', DATA)
def test_an_epoch_reads_the_coreset_alone(build, monkeypatch, name):
    config, names = DATA[name]
    dataset = DATASETS.build(config(build))
    assert mixing_transforms(dataset) == names
    coreset = [0, 1, 2, 4, 5, 6, 7, 13]
    allowed = {dataset.get_data_info(index)['img_path'] for index in coreset}
    read = set()
    for number in range(3):
        found, pictures = epoch_of(dataset, monkeypatch, coreset, number)
        assert len(found) > len(coreset)
        read.update(found)
        assert epoch_of(dataset, monkeypatch, coreset, number, batch_size=8)[1] == pictures
    assert read == allowed


def test_data_sets_are_afterwards_what_they_were(build, monkeypatch):
    dataset = DATASETS.build(build([*LOADING, CACHED_MOSAIC, CROP, *PACKING]))
    epoch_of(dataset, monkeypatch, range(6))
    assert '_rand_another' not in vars(dataset)
    assert dataset.pipeline.transforms[2].results_cache == []


def test_parts_of_a_concatenated_set_mix_within_themselves(build, monkeypatch):
    parts = [mixing(build(LOADING, name), MOSAIC) for name in 'ab']
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=parts))
    coreset = [3, 7, 8, 9, 22, 25, 31]
    allowed = {dataset.get_data_info(index)['img_path'] for index in coreset}
    read = sum((epoch_of(dataset, monkeypatch, coreset, number)[0] for number in range(3)), [])
    assert set(read) == allowed
    alone, _ = epoch_of(dataset, monkeypatch, [4, 30])
    assert len(set(alone)) == 2  # each is mixed with itself


def test_repeated_sets_and_mixtures_of_several_sets(build, monkeypatch):
    both = dict(type='ConcatDataset', datasets=[build([*LOADING, CROP], name) for name in 'ab'])
    dataset = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=mixing(both, MOSAIC)))
    coreset = [1, 2, 25, 26, 41, 45, 46, 70]
    allowed = {dataset.get_data_info(index)['img_path'] for index in coreset}
    read = sum((epoch_of(dataset, monkeypatch, coreset, number)[0] for number in range(3)), [])
    assert set(read) == allowed


def test_cached_transforms_mix_images_of_the_coreset_from_the_first_image_on(build):
    dataset = DATASETS.build(build([*LOADING, {**CACHED_MOSAIC, 'center_ratio_range': (1.0, 1.0)}, *PACKING]))
    sampler = CoresetSampler(dataset, 0.2, seed=0)
    images = [mmcv.imread(dataset.get_data_info(int(index))['img_path']) for index in sampler]
    scales = [64 / max(image.shape[:2]) for image in images]
    images = [mmcv.imresize(i, (int(i.shape[1] * scale), int(i.shape[0] * scale))) for i, scale in zip(images, scales)]
    for item in sampler:
        (mixed,) = dataset.__getitems__([item])
        mosaic = mixed['inputs'].numpy().transpose(1, 2, 0)
        assert mosaic.shape == (128, 128, 3)
        right = [(mosaic[64 - len(image) : 64, 64 : 64 + image.shape[1]] == image).all() for image in images]
        assert sum(right) == 1
