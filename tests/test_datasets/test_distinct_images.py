import copy

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from mmacs.datasets.distinct_images import DistinctImages, scoring_pipeline
from mmacs.utils.errors import MmacsError

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(48, 32), keep_ratio=True),
    dict(type='PackDetInputs'),
]


def coco(folder, **changes):
    return dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='annotations.json',
        data_prefix=dict(img='images'),
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=PIPELINE,
        **changes,
    )


class Listed(BaseDataset):
    """Images that are given as infos."""

    def __init__(self, infos, serialize_data=False):
        self.infos = infos
        super().__init__(serialize_data=serialize_data)

    def load_data_list(self):
        return copy.deepcopy(self.infos)


def numbered(count):
    return [dict(img_path=f'{number}.png', gt_label=[number]) for number in range(count)]


def test_repeated_images_are_seen_once(tiny_coco):
    dataset = DATASETS.build(dict(type='RepeatDataset', times=3, dataset=coco(tiny_coco)))
    images = DistinctImages(dataset, PIPELINE)
    assert len(images) == 12
    assert images.positions.tolist() == list(range(12)) * 3


def test_concatenated_and_filtered_sets_keep_their_order(tiny_coco):
    both = [coco(tiny_coco, filter_cfg=dict(filter_empty_gt=True, min_size=1)), coco(tiny_coco)]
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=both))
    images = DistinctImages(dataset, PIPELINE)
    assert len(images) == 22
    assert [images.image_id(position) for position in images.positions] == [
        dataset.get_data_info(index)['img_id'] for index in range(22)
    ]


def test_class_balanced_and_mixing_wrappers(tiny_coco):
    class_balanced = DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=coco(tiny_coco)))
    images = DistinctImages(class_balanced, PIPELINE)
    assert len(images) == 12 < len(images.positions)
    shown = [images.image_id(position) for position in images.positions]
    assert shown == [class_balanced.get_data_info(index)['img_id'] for index in range(len(class_balanced))]
    mixed = DATASETS.build(dict(type='MultiImageMixDataset', pipeline=[], dataset=coco(tiny_coco)))
    assert len(DistinctImages(mixed, PIPELINE)) == 12


@pytest.mark.parametrize('lazy', [False, True])
def test_images_are_in_the_order_of_their_first_index(lazy):
    one, other = Listed(numbered(3)), Listed(numbered(2))
    both = ConcatDataset([other, one, other], lazy_init=lazy)  # what stands in it twice is one data set
    both = RepeatDataset.__new__(RepeatDataset), both
    both[0].__dict__.update(dataset=both[1], times=2, _fully_initialized=False)  # its constructor wants a BaseDataset
    images = DistinctImages(both[0], [])
    assert images.positions.tolist() == [0, 1, 2, 3, 4, 0, 1] * 2
    assert [images.info(position)['gt_label'] for position in range(5)] == [[0], [1], [0], [1], [2]]
    assert [images.info(position)['sample_idx'] for position in range(5)] == [0, 1, 0, 1, 2]


def test_all_infos_are_those_of_single_images():
    plain, packed = Listed(numbered(3)), Listed(numbered(4), serialize_data=True)

    class Own(Listed):
        def get_data_info(self, idx):
            return {**super().get_data_info(idx), 'own': idx}

    images = DistinctImages(ConcatDataset([plain, packed, Own(numbered(2)), Own(numbered(2), True)]), [])
    infos = list(images.infos())
    assert infos == [images.info(position) for position in range(11)]
    assert [info.get('own') for info in infos[7:]] == [0, 1, 0, 1]


def test_annotations_follow_the_image_through_resizing(tiny_coco):
    dataset = DATASETS.build(coco(tiny_coco))
    test = [PIPELINE[0], PIPELINE[2], PIPELINE[1], PIPELINE[3]]  # as MMDetection's test pipelines have it
    train = [*PIPELINE[:2], dict(type='RandomFlip', prob=0.5), PIPELINE[3]]
    pipeline = scoring_pipeline(train, test)
    assert [transform['type'] for transform in pipeline] == [transform['type'] for transform in PIPELINE]
    images = DistinctImages(dataset, pipeline)
    sample, original = images[0]['data_samples'], dataset.get_data_info(0)['instances'][0]['bbox']
    np.testing.assert_allclose(
        sample.gt_instances.bboxes.tensor[0], np.array(original) * sample.scale_factor[0], rtol=1e-5
    )


@pytest.mark.parametrize('serialize_data', [False, True])
def test_looking_does_not_change_the_data_set(tiny_coco, serialize_data):
    dataset = DATASETS.build(coco(tiny_coco, serialize_data=serialize_data))
    before = copy.deepcopy(dataset.get_data_info(3))
    images = DistinctImages(dataset, PIPELINE)
    images[3]
    assert len(list(images.infos())) == 12
    assert dataset.get_data_info(3) == before and ('sample_idx' in before)
    assert serialize_data or 'sample_idx' not in dataset.data_list[3]


def test_a_pipeline_that_draws_at_random_is_refused_and_random_states_stay(tiny_coco):
    flip = dict(type='RandomFlip', prob=0.5)
    data = DATASETS.build(coco(tiny_coco))
    before = np.random.get_state()[1].copy()
    with pytest.raises(MmacsError, match='another image each time'):
        DistinctImages(data, [*PIPELINE[:-1], flip, PIPELINE[-1]]).check_pipeline()
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    DistinctImages(data, PIPELINE).check_pipeline()


def test_a_pipeline_without_annotations_is_refused(tiny_coco):
    with pytest.raises(MmacsError, match='gives no boxes: add LoadAnnotations'):
        DistinctImages(DATASETS.build(coco(tiny_coco)), [PIPELINE[0], *PIPELINE[2:]]).check_pipeline()


def test_an_unreadable_image_is_named(tiny_coco):
    (tiny_coco / 'images' / '002.png').write_bytes(b'not a picture')
    images = DistinctImages(DATASETS.build(coco(tiny_coco)), PIPELINE)
    with pytest.raises(MmacsError, match=r'cannot read image .*002\.png'):
        images[1]


def test_what_the_pipeline_drops_is_named():
    with pytest.raises(MmacsError, match=r'drops image 1\.png'):
        DistinctImages(Listed(numbered(2)), [lambda info: None])[1]


def test_an_unknown_wrapper_is_named(tiny_coco):
    class Odd:
        def __len__(self):
            return 1

    with pytest.raises(MmacsError, match='wrapper Odd'):
        DistinctImages(Odd(), PIPELINE)
