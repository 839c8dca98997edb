import json
import random

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from mmacs.datasets.drawing import draw_sprite
from mmacs.datasets.shape_scenes import (
    CLASSES,
    LEAST_VISIBLE,
    DetectionSpec,
    draw_scene,
    see,
    to_box,
    to_rle,
    write_detection,
)

SPEC = DetectionSpec(num_train=60, num_val=4, long_side=96, seed=1)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    write_detection(folder, SPEC)
    return folder


@pytest.fixture(scope='module')
def coco(folder):
    return json.loads((folder / 'annotations' / 'instances_train.json').read_text())


def decode(annotation):
    rle = annotation['segmentation']
    return coco_mask.decode(coco_mask.frPyObjects(rle, *rle['size'])).astype(bool)


def test_the_same_spec_gives_the_same_bytes(folder, tmp_path):
    np.random.seed(7)
    write_detection(tmp_path, SPEC)
    assert contents(tmp_path) == contents(folder)


def test_another_seed_gives_other_images(folder, tmp_path):
    write_detection(tmp_path, DetectionSpec(num_train=3, num_val=0, long_side=96, seed=2))
    first, other = contents(folder), contents(tmp_path)
    assert all(first[f'train/{i:06d}.png'] != other[f'train/{i:06d}.png'] for i in range(3))


def test_an_image_does_not_depend_on_how_many_there_are(folder, tmp_path):
    write_detection(tmp_path, DetectionSpec(num_train=3, num_val=0, long_side=96, seed=1))
    assert contents(tmp_path)['train/000002.png'] == contents(folder)['train/000002.png']


def test_splits_differ(folder):
    files = contents(folder)
    assert files['train/000000.png'] != files['val/000000.png']


def test_global_random_states_stay_untouched():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    draw_scene(np.random.default_rng(0), 64)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_images_are_as_described(folder, coco):
    assert [image['id'] for image in coco['images']] == list(range(1, 61))
    for image in coco['images']:
        pixels = cv2.imread(str(folder / 'train' / image['file_name']))
        assert pixels.shape == (image['height'], image['width'], 3)
        assert max(pixels.shape) == SPEC.long_side
        assert 0 <= image['difficulty'] <= 1


def test_annotations_agree_with_their_masks(coco):
    images = {image['id']: image for image in coco['images']}
    for annotation in coco['annotations']:
        mask, image = decode(annotation), images[annotation['image_id']]
        assert mask.shape == (image['height'], image['width'])
        assert annotation['area'] == mask.sum() > 0
        assert annotation['bbox'] == to_box(mask)
        x, y, width, height = annotation['bbox']
        assert x >= 0 and y >= 0 and x + width <= image['width'] and y + height <= image['height']


def test_ids_are_unique_and_classes_known(coco):
    ids = [annotation['id'] for annotation in coco['annotations']]
    assert len(set(ids)) == len(ids)
    assert {annotation['category_id'] for annotation in coco['annotations']} == {1, 2, 3, 4, 5}
    assert tuple(category['name'] for category in coco['categories']) == CLASSES


def test_each_pixel_belongs_to_one_object(coco):
    for image in coco['images']:
        masks = [decode(a).astype(int) for a in coco['annotations'] if a['image_id'] == image['id']]
        assert not masks or sum(masks).max() == 1


def test_variety(coco):
    annotated = {annotation['image_id'] for annotation in coco['annotations']}
    crowds = [annotation for annotation in coco['annotations'] if annotation['iscrowd']]
    assert 0 < len(coco['images']) - len(annotated) < 15
    assert 0 < len(crowds) < 10
    assert {image['width'] > image['height'] for image in coco['images']} == {True, False}


def test_difficulty_means_more_and_smaller_objects(coco):
    easy = {image['id'] for image in coco['images'] if image['difficulty'] < 0.2}
    hard = {image['id'] for image in coco['images'] if image['difficulty'] > 0.5}
    assert len(easy) > len(hard) > 5

    def objects_of(ids):
        return [a['area'] for a in coco['annotations'] if a['image_id'] in ids and not a['iscrowd']]

    assert len(objects_of(hard)) / len(hard) > 2 * len(objects_of(easy)) / len(easy)
    assert np.median(objects_of(hard)) < 0.6 * np.median(objects_of(easy))


def disk(centre, radius):
    colours = np.zeros((2, 3))
    return draw_sprite(np.random.default_rng(0), 'disk', (64, 64), centre, radius, colours, ['plain'])


def test_a_mostly_covered_object_leaves_the_scene():
    front, hidden, aside = disk((30, 30), 20), disk((30, 32), 10), disk((30, 48), 12)
    sprites, objects = see((64, 64), [front, hidden, aside], [])
    assert sprites == [front, aside]
    assert [item.shape for item in objects] == ['disk', 'disk']
    assert not (objects[0].mask & objects[1].mask).any()
    assert LEAST_VISIBLE <= objects[1].mask.sum() / aside.mask.sum() < 1


@pytest.mark.parametrize('covered', [False, True])
def test_a_crowd_is_one_object_unless_it_is_covered(covered):
    crowd = [disk((30, 30), 5), disk((30, 34), 5)]
    _, objects = see((64, 64), [disk((30, 32), 20)] if covered else [], crowd)
    assert [item.is_crowd for item in objects] == ([False] if covered else [True])


@pytest.mark.parametrize('seed', range(3))
def test_run_lengths_are_those_of_coco(seed):
    mask = np.random.default_rng(seed).random((7, 5)) < 0.5
    rle = to_rle(mask)
    assert sum(rle['counts']) == mask.size
    assert (coco_mask.decode(coco_mask.frPyObjects(rle, 7, 5)) == mask).all()


def test_box_is_tight():
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:5, 7:13] = True
    assert to_box(mask) == [7, 2, 6, 3]
