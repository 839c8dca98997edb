import copy
import json

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner

import mmacs.registry  # noqa: F401
from mmacs.datasets.label_noise import corrupt, parse_noise
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO

CLASSES = tuple('abcdefghij')


class ToyClassification(BaseDataset):
    """Labels without images; ``kind`` is what an image has."""

    METAINFO = {'classes': CLASSES}

    def __init__(self, kind='single', serialize_data=False, **kwargs):
        self.kind = kind
        super().__init__(serialize_data=serialize_data, **kwargs)

    def load_data_list(self):
        made = {'single': lambda i: {'gt_label': i % 10}, 'multi': lambda i: {'gt_label': [1, 2]}, 'none': lambda i: {}}
        made['one class'] = lambda i: {'gt_label': 0}
        return [{'name': i, **made[self.kind](i)} for i in range(50)]


def noisy_toy(seed=0, noise=None, **kwargs):
    dataset = dict(type=ToyClassification, **kwargs)
    noise = noise or dict(symmetric=0.3)
    return DATASETS.build(dict(type='mmacs.NoisyLabels', dataset=dataset, noise=noise, seed=seed))


def infos(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def labels_after(noise, clean, seed=0):
    settings = parse_noise(noise, CLASSES)
    rngs = (np.random.default_rng([seed, index]) for index in range(len(clean)))
    return np.array([corrupt({'gt_label': int(y)}, rng, settings)['gt_label'] for y, rng in zip(clean, rngs)])


def scene(count, **extra):
    """An image of 400 x 300 pixels with objects of 20 x 10 pixels."""
    rng = np.random.default_rng(0)
    corners = rng.uniform([0, 0], [380, 290], (count, 2)).tolist()
    boxes = [[x, y, x + 20, y + 10] for x, y in corners]
    instances = [dict(bbox=box, bbox_label=i % 10, ignore_flag=0) for i, box in enumerate(boxes)]
    return dict(width=400, height=300, instances=instances, **extra)


def corrupted(info, noise, seed=0):
    return corrupt(info, np.random.default_rng(seed), parse_noise(noise, CLASSES))


def undo(info):
    """Apply the record of what was right backwards."""
    info = copy.deepcopy(info)
    records = info.pop('noise')
    for record in (record for record in records if record['kind'] != 'dropped'):
        holder = info['instances'][record['index']] if 'instances' in info else info
        key = {'box': 'bbox', 'label': 'bbox_label' if 'instances' in info else 'gt_label'}[record['kind']]
        assert holder[key] != record['was']
        holder[key] = record['was']
    for record in (record for record in records if record['kind'] == 'dropped'):
        info['instances'].insert(record['index'], record['was'])
    return info


def test_symmetric_noise_hits_its_rate_and_all_other_classes_alike():
    clean = np.arange(10000) % 10
    noisy = labels_after(dict(symmetric=0.3), clean)
    changed = noisy != clean
    assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 10000)
    shifts = np.bincount((noisy - clean)[changed] % 10, minlength=10)[1:]
    assert (np.abs(shifts - 3000 / 9) < 4 * np.sqrt(3000 / 9)).all()


def test_rate_one_leaves_no_label():
    clean = np.arange(500) % 10
    assert (labels_after(dict(symmetric=1), clean) != clean).all()
    assert (labels_after(dict(symmetric=0), clean) == clean).all()


def test_asymmetric_noise_takes_the_next_class_or_the_mapped_one():
    clean = np.arange(10000) % 10
    noisy = labels_after(dict(asymmetric=0.4), clean)
    changed = noisy != clean
    assert abs(changed.mean() - 0.4) < 4 * np.sqrt(0.4 * 0.6 / 10000)
    assert (noisy[changed] == (clean[changed] + 1) % 10).all()
    mapped = labels_after(dict(asymmetric=1.0, mapping={'a': 'c', 4: 'a', 'j': 8}), clean)
    np.testing.assert_array_equal(mapped[:10], [2, 1, 2, 3, 0, 5, 6, 7, 8, 8])


def test_both_kinds_of_wrong_labels_together():
    clean = np.zeros(10000, dtype=int)
    noisy = labels_after(dict(symmetric=0.2, asymmetric=0.3, mapping={'a': 'c'}), clean)
    assert abs((noisy == 2).mean() - (0.3 + 0.2 / 9)) < 0.02 and abs((noisy == 0).mean() - 0.5) < 0.02


def test_higher_rates_add_wrong_annotations_and_kinds_do_not_interfere():
    clean = np.arange(1000) % 10
    some, more = labels_after(dict(symmetric=0.1), clean), labels_after(dict(symmetric=0.3), clean)
    assert (more[some != clean] == some[some != clean]).all()
    info = scene(300)
    labels = {tuple(i['bbox']): i['bbox_label'] for i in corrupted(info, dict(symmetric=0.3))['instances']}
    left = corrupted(info, dict(symmetric=0.3, drop_boxes=0.5))['instances']
    assert 0 < len(left) < 300 and all(labels[tuple(i['bbox'])] == i['bbox_label'] for i in left)


def test_rates_per_object():
    info = corrupted(scene(4000), dict(symmetric=0.2, drop_boxes=0.1, jitter_boxes=0.3))
    kinds = [record['kind'] for record in info['noise']]
    assert len(info['instances']) == 4000 - kinds.count('dropped')
    for kind, rate in (('dropped', 0.1), ('label', 0.2 * 0.9), ('box', 0.3 * 0.9)):
        assert abs(kinds.count(kind) / 4000 - rate) < 4 * np.sqrt(rate * (1 - rate) / 4000)


def test_moved_boxes_stay_near_and_their_middle_is_free_of_bias():
    info = scene(2000)
    for instance in info['instances']:
        instance['bbox'] = [100, 100, 140, 120]
    boxes = np.array([i['bbox'] for i in corrupted(info, dict(jitter_boxes=1, jitter=0.25))['instances']])
    shift = (boxes[:, :2] + boxes[:, 2:]) / 2 - [120, 110]
    size = boxes[:, 2:] - boxes[:, :2]
    assert (np.abs(shift) <= [10, 5]).all() and (np.abs(shift).max(axis=0) > [9.5, 4.75]).all()
    assert (np.abs(size - [40, 20]) <= np.array([10, 5]) + 1e-9).all() and (np.ptp(size, axis=0) > [19, 9.5]).all()
    assert (np.abs(shift.mean(axis=0)) < 4 * np.array([10, 5]) / np.sqrt(3 * 2000)).all()


@pytest.mark.parametrize('box', [[0, 0, 400, 300], [0, 0, 1, 1], [399, 299, 400, 300], [0, 299.5, 400, 300]])
def test_moved_boxes_stay_in_the_image_and_hold_a_pixel(box):
    info = scene(200)
    for instance in info['instances']:
        instance['bbox'] = box
    boxes = np.array([i['bbox'] for i in corrupted(info, dict(jitter_boxes=1, jitter=1))['instances']])
    assert (boxes >= 0).all() and (boxes[:, 2:] <= [400, 300]).all() and (boxes[:, 2:] - boxes[:, :2] > 1 - 1e-9).all()


def test_objects_to_ignore_are_left_alone():
    info = scene(20)
    for instance in info['instances'][::2]:
        instance['ignore_flag'] = 1
    assert corrupted(info, dict(drop_boxes=1))['instances'] == info['instances'][::2]
    noisy = corrupted(info, dict(symmetric=1, jitter_boxes=1))['instances']
    assert noisy[::2] == info['instances'][::2]
    assert all(one['bbox_label'] != other['bbox_label'] for one, other in zip(noisy[1::2], info['instances'][1::2]))


def test_corruption_leaves_its_input_alone():
    info = scene(50, img_id=3)
    before = copy.deepcopy(info)
    corrupted(info, dict(symmetric=0.5, drop_boxes=0.5, jitter_boxes=0.5))
    assert info == before


@pytest.mark.parametrize('serialize_data', [True, False])
def test_the_record_gives_the_original_labels(serialize_data):
    clean = ToyClassification(serialize_data=serialize_data)
    noisy = noisy_toy(serialize_data=serialize_data)
    assert type(noisy) is ToyClassification and noisy.metainfo == clean.metainfo and len(noisy) == len(clean)
    assert [undo(info) for info in infos(noisy)] == infos(clean)
    wrong = [bool(info['noise']) for info in infos(noisy)]
    assert wrong == [one['gt_label'] != other['gt_label'] for one, other in zip(infos(noisy), infos(clean))]
    assert 0 < sum(wrong) < 50
    json.dumps([info['noise'] for info in infos(noisy)])


def test_noise_is_that_of_the_seed():
    assert infos(noisy_toy(seed=1)) == infos(noisy_toy(seed=1, serialize_data=True))
    assert infos(noisy_toy(seed=1)) == infos(noisy_toy(seed=1, lazy_init=True))
    assert infos(noisy_toy(seed=1)) != infos(noisy_toy(seed=2))


@pytest.mark.parametrize(
    'indices, serialize_data', [(20, False), (-20, True), ([40, 3, 3, 17], False), ([-1, 0], True)]
)
def test_an_image_has_the_same_noise_in_any_subset(indices, serialize_data):
    everything = {info['name']: (info['gt_label'], info['noise']) for info in infos(noisy_toy())}
    subset = noisy_toy(indices=indices, serialize_data=serialize_data)
    names = [info['name'] for info in infos(ToyClassification(indices=indices))]
    assert [info['name'] for info in infos(subset)] == names
    assert all((info['gt_label'], info['noise']) == everything[info['name']] for info in infos(subset))


@pytest.mark.parametrize(
    'noise, message',
    [
        (dict(symetric=0.2), "did you mean 'symmetric'"),
        (dict(symmetric=1.2), 'symmetric of label noise must be a number from 0 to 1, got 1.2'),
        (dict(drop_boxes=True), 'drop_boxes of label noise must be a number'),
        (dict(jitter=float('nan')), 'jitter of label noise must be a number'),
        (dict(symmetric=0.6, asymmetric=0.6), 'must add up to at most 1'),
        (dict(asymmetric=0.2, mapping={'a': 'k'}), "unknown class in the mapping of label noise 'k'"),
        (dict(asymmetric=0.2, mapping={10: 0}), 'unknown class in the mapping of label noise 10'),
        (dict(asymmetric=0.2, mapping=['a', 'b']), 'mapping of label noise must be a dict'),
        (dict(drop_boxes=0.2), 'need a data set with boxes'),
        (dict(jitter_boxes=0.2), 'need a data set with boxes'),
    ],
)
def test_noise_that_makes_no_sense(noise, message):
    with pytest.raises(MmacsError, match=message):
        noisy_toy(noise=noise)


@pytest.mark.parametrize('seed', [-1, 0.5, None, True])
def test_seed_out_of_range(seed):
    with pytest.raises(MmacsError, match='seed of label noise must be a whole number, at least 0'):
        noisy_toy(seed=seed)


def test_data_sets_that_cannot_have_this_noise():
    for kind in ('multi', 'none'):
        with pytest.raises(MmacsError, match='instances, or one gt_label each'):
            noisy_toy(kind=kind)
    with pytest.raises(MmacsError, match='at least 2 classes, this data set names 1'):
        noisy_toy(kind='one class', metainfo=dict(classes=('a',)))
    inside = dict(type='mmacs.NoisyLabels', dataset=dict(type=ToyClassification), noise=dict(symmetric=0.2))
    with pytest.raises(MmacsError, match='noisy already'):
        DATASETS.build(dict(type='mmacs.NoisyLabels', dataset=inside, noise=dict(symmetric=0.2)))
    wrapper = dict(type='RepeatDataset', times=2, dataset=dict(type=ToyClassification))
    with pytest.raises(MmacsError, match='put it into RepeatDataset'):
        DATASETS.build(dict(type='mmacs.NoisyLabels', dataset=wrapper, noise=dict(symmetric=0.2)))


def coco(folder, noise=None, **kwargs):
    dataset = dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='annotations.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ],
        **kwargs,
    )
    return dataset if noise is None else dict(type='mmacs.NoisyLabels', dataset=dataset, noise=noise)


@pytest.mark.parametrize('serialize_data', [True, False])
def test_the_record_gives_the_original_objects(tiny_coco, serialize_data):
    clean = DATASETS.build(coco(tiny_coco))
    noise = dict(symmetric=0.3, drop_boxes=0.3, jitter_boxes=0.5)
    noisy = DATASETS.build(coco(tiny_coco, noise, serialize_data=serialize_data))
    assert type(noisy) is type(clean) and noisy.metainfo == clean.metainfo
    assert {record['kind'] for info in infos(noisy) for record in info['noise']} == {'label', 'box', 'dropped'}
    assert [undo(info) for info in infos(noisy)] == infos(clean)
    json.dumps([info['noise'] for info in infos(noisy)])


def test_images_that_lose_all_objects_stay(tiny_coco):
    noisy = DATASETS.build(coco(tiny_coco, dict(drop_boxes=1), filter_cfg=dict(filter_empty_gt=True)))
    assert len(noisy) == 10  # of 12, two without objects from the start
    assert not any(info['instances'] for info in infos(noisy)) and all(info['noise'] for info in infos(noisy))
    assert len(noisy[0]['data_samples'].gt_instances) == 0


def test_the_loader_of_a_detector_yields_noisy_objects(tiny_coco):
    noisy = coco(tiny_coco, dict(symmetric=0.5, drop_boxes=0.2, jitter_boxes=0.5))
    loader = Runner.build_dataloader(
        Config(
            dict(
                batch_size=4,
                num_workers=0,
                dataset=dict(type='RepeatDataset', times=2, dataset=noisy),
                sampler=dict(type='DefaultSampler', shuffle=False),
                batch_sampler=dict(type='AspectRatioBatchSampler'),
            )
        )
    )
    expected = {info['img_id']: info['instances'] for info in infos(loader.dataset)}
    seen = [sample for batch in loader for sample in batch['data_samples']]
    assert len(seen) == 24
    for sample in seen:
        instances = expected[sample.img_id]
        assert sample.gt_instances.labels.tolist() == [i['bbox_label'] for i in instances]
        boxes = np.array([i['bbox'] for i in instances]).reshape(-1, 4)
        np.testing.assert_allclose(sample.gt_instances.bboxes.tensor.numpy(), boxes, atol=1e-4)


def test_an_inheriting_config_makes_a_classifiers_labels_noisy(tmp_path):
    pytest.importorskip('mmpretrain')
    path = tmp_path / 'noisy.py'
    path.write_text(
        f'_base_ = {str(REPO / "configs" / "cifar_resnet" / "resnet20_embedded.py")!r}\n'
        f'train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(_delete_=True, '
        f"type='mmacs.NoisyLabels', dataset=_base_.train_dataloader.dataset, "
        f"noise=dict(asymmetric=0.5, mapping={{'disk': 'square', 2: 0}})))\n"
    )
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({'train_dataloader.dataset.dataset.data_root': str(tmp_path / 'data')})
    cfg.train_dataloader.dataset.dataset.spec = dict(num_train=60, num_test=1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader(cfg.train_dataloader)
        clean = DATASETS.build(cfg.train_dataloader.dataset.dataset)
    seen = {s.sample_idx: int(s.gt_label) for batch in loader for s in batch['data_samples']}
    changed = {i: label for i, label in seen.items() if label != clean.get_data_info(i)['gt_label']}
    assert changed and all(label == {0: 1, 2: 0}[i % 10] for i, label in changed.items())
    assert changed.keys() == {i for i, info in enumerate(infos(loader.dataset)) if info['noise']}
