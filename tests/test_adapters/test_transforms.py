"""What is known of transforms by name, beside those that the libraries have."""

import pytest
from mmdet.registry import TRANSFORMS

from mmacs.adapters.transforms import loads, mixes_images


@pytest.mark.parametrize('name', ['Mosaic', 'CachedMosaic', 'MixUp', 'CachedMixUp', 'CopyPaste'])
def test_transforms_that_take_further_images_mix(name):
    kind = TRANSFORMS.get(f'mmdet.{name}')
    assert mixes_images(name) and mixes_images(f'mmdet.{name}') and mixes_images(kind)
    assert 'get_indexes' in dir(kind) and not loads(name)


def test_what_loads_images_and_annotations_is_told_from_what_changes_them():
    for name in ('LoadImageFromFile', 'mmdet.LoadAnnotations', 'LoadPanopticAnnotations', 'mmcv.LoadImageFromFile'):
        assert loads(name) and loads(TRANSFORMS.get(name)) and not mixes_images(name)
    for name in ('Resize', 'RandomFlip', 'PackDetInputs', 'LoadProposals'):
        assert not loads(name) and not mixes_images(name)
