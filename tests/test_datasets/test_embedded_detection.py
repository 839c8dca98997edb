import json
from pathlib import Path

import pytest

pytest.importorskip('mmdet')

import numpy as np
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATASETS, DefaultScope

from mmacs.datasets.shape_scenes import CLASSES
from mmacs.utils.errors import MmacsError

SPEC = dict(num_train=60, num_val=20, long_side=96, seed=1)
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    return str(tmp_path_factory.mktemp('data') / 'embedded_detection')


@pytest.fixture(autouse=True)
def mmdet_scope():
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def build(data_root, split='train', **kwargs):
    config = dict(
        type='mmacs.EmbeddedDetection',
        data_root=data_root,
        ann_file=f'annotations/instances_{split}.json',
        data_prefix=dict(img=f'{split}/'),
        spec=SPEC,
        pipeline=PIPELINE,
    )
    return DATASETS.build(Config({**config, **kwargs}))


def test_draws_then_loads_every_image(data_root):
    dataset = build(data_root)
    assert len(dataset) == 60 and len(build(data_root, 'val')) == 20
    assert dataset.metainfo['classes'] == CLASSES
    assert len(dataset.metainfo['palette']) == len(CLASSES)


def test_samples_hold_pixels_boxes_and_masks(data_root):
    sample = build(data_root)[0]
    height, width = sample['data_samples'].ori_shape
    assert sample['inputs'].shape == (3, height, width) and sample['inputs'].dtype == torch.uint8
    instances = sample['data_samples'].gt_instances
    assert len(instances.bboxes) == len(instances.labels) == len(instances.masks) > 0
    inside = torch.tensor([width, height, width, height])
    assert (instances.bboxes.tensor >= 0).all() and (instances.bboxes.tensor <= inside).all()


def test_filter_drops_images_without_objects_only(data_root):
    everything = build(data_root)
    filtered = build(data_root, filter_cfg=dict(filter_empty_gt=True, min_size=32))
    empty = [i for i in range(60) if not everything.get_data_info(i)['instances']]
    assert 0 < len(empty) == 60 - len(filtered)


def test_crowds_are_to_be_ignored(data_root):
    dataset = build(data_root)
    flags = [instance['ignore_flag'] for i in range(60) for instance in dataset.get_data_info(i)['instances']]
    assert 0 < sum(flags) < len(flags)


def test_batches_hold_one_orientation(data_root):
    dataset = build(data_root)
    infos = [dataset.get_data_info(i) for i in range(60)]
    batches = list(AspectRatioBatchSampler(DefaultSampler(dataset, shuffle=False), batch_size=8))
    orientations = [{infos[i]['width'] < infos[i]['height'] for i in batch} for batch in batches[:-2]]
    assert {True} in orientations and {False} in orientations and {True, False} not in orientations


def test_lazy_data_set_draws_when_it_is_used(tmp_path):
    dataset = build(str(tmp_path / 'set'), lazy_init=True, spec=dict(num_train=2, num_val=0, long_side=64))
    assert not (tmp_path / 'set').exists()
    dataset.full_init()
    assert len(dataset) == 2


def test_another_spec_for_the_same_folder_is_refused(data_root):
    build(data_root)
    with pytest.raises(MmacsError, match='seed is 1 instead of 5'):
        build(data_root, spec={**SPEC, 'seed': 5})


def test_unknown_field_is_named(data_root):
    with pytest.raises(MmacsError, match="did you mean 'long_side'"):
        build(data_root, spec=dict(longside=64))


def perfect_detections(dataset):
    """The annotated boxes of each image, crowds left out, as a metric takes them."""
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        found = [instance for instance in info['instances'] if not instance['ignore_flag']]
        yield {
            'img_id': info['img_id'],
            'ori_shape': (info['height'], info['width']),
            'pred_instances': {
                'bboxes': torch.tensor([instance['bbox'] for instance in found]).reshape(-1, 4).float(),
                'scores': torch.full((len(found),), 0.9),
                'labels': torch.tensor([instance['bbox_label'] for instance in found], dtype=torch.long),
            },
        }


def average_precision(dataset, data_root, detections):
    metric = CocoMetric(ann_file=str(Path(data_root) / 'annotations' / 'instances_train.json'))
    metric.dataset_meta = dataset.metainfo
    metric.process({}, list(detections))
    return metric.evaluate(len(dataset))['coco/bbox_mAP']


def test_annotations_as_detections_score_one(data_root):
    dataset = build(data_root, test_mode=True)
    assert average_precision(dataset, data_root, perfect_detections(dataset)) == 1.0


@pytest.mark.parametrize('inside_crowd', [True, False])
def test_detections_inside_a_crowd_cost_nothing(data_root, inside_crowd):
    dataset = build(data_root, test_mode=True)
    coco = json.loads((Path(data_root) / 'annotations' / 'instances_train.json').read_text())
    crowds = {a['image_id']: a for a in coco['annotations'] if a['iscrowd']}
    detections = list(perfect_detections(dataset))
    for detection in detections:
        if detection['img_id'] in crowds:
            crowd = crowds[detection['img_id']]
            x, y, width, height = crowd['bbox']
            height, width = height // 2, width // 2
            if not inside_crowd:
                x, y = (x + 48) % 96, (y + 48) % 96
            extra = {
                'bboxes': torch.tensor([[x, y, x + width, y + height]]).float(),
                'scores': torch.tensor([0.99]),
                'labels': torch.tensor([crowd['category_id'] - 1]),
            }
            instances = detection['pred_instances']
            detection['pred_instances'] = {key: torch.cat([instances[key], extra[key]]) for key in extra}
    score = average_precision(dataset, data_root, detections)
    assert score == 1.0 if inside_crowd else score < 1.0


def test_data_set_is_there_before_the_evaluator(tmp_path):
    """MMEngine's loops build the data set first, and so the evaluator finds its annotation file on the first run."""
    from mmengine.evaluator import Evaluator
    from mmengine.runner import Runner, ValLoop

    data_root = str(tmp_path / 'set')
    runner = Runner(
        model=torch.nn.Identity(),
        work_dir=str(tmp_path / 'work'),
        default_scope='mmdet',
        default_hooks={},
        launcher='none',
    )
    loop = ValLoop(
        runner,
        dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='mmacs.EmbeddedDetection',
                data_root=data_root,
                ann_file='annotations/instances_val.json',
                data_prefix=dict(img='val/'),
                spec=dict(num_train=1, num_val=4, long_side=64),
                pipeline=PIPELINE,
                test_mode=True,
            ),
        ),
        evaluator=dict(type='CocoMetric', ann_file=f'{data_root}/annotations/instances_val.json'),
    )
    assert isinstance(loop.evaluator, Evaluator)
    assert np.all([len(batch['inputs']) == 2 for batch in loop.dataloader])
