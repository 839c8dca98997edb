import copy

import numpy as np
import pytest
from mmdet.registry import DATASETS

from mmacs.coreset.view import ScoringView, scoring_pipeline
from mmacs.errors import MmacsError

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


def test_repeated_images_are_seen_once(tiny_coco):
    dataset = DATASETS.build(dict(type='RepeatDataset', times=3, dataset=coco(tiny_coco)))
    view = ScoringView(dataset, PIPELINE)
    assert len(view) == 12
    assert view.positions.tolist() == list(range(12)) * 3


def test_concatenated_and_filtered_sets_keep_their_order(tiny_coco):
    both = [coco(tiny_coco, filter_cfg=dict(filter_empty_gt=True, min_size=1)), coco(tiny_coco)]
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=both))
    view = ScoringView(dataset, PIPELINE)
    assert len(view) == 22
    assert [view.image_id(position) for position in view.positions] == [
        dataset.get_data_info(index)['img_id'] for index in range(22)
    ]


def test_class_balanced_and_mixing_wrappers(tiny_coco):
    class_balanced = DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=coco(tiny_coco)))
    view = ScoringView(class_balanced, PIPELINE)
    assert len(view) == 12 < len(view.positions)
    mixed = DATASETS.build(dict(type='MultiImageMixDataset', pipeline=[], dataset=coco(tiny_coco)))
    assert len(ScoringView(mixed, PIPELINE)) == 12


def test_annotations_follow_the_image_through_resizing(tiny_coco):
    dataset = DATASETS.build(coco(tiny_coco))
    test = [PIPELINE[0], PIPELINE[2], PIPELINE[1], PIPELINE[3]]  # as MMDetection's test pipelines have it
    train = [*PIPELINE[:2], dict(type='RandomFlip', prob=0.5), PIPELINE[3]]
    pipeline = scoring_pipeline(train, test)
    assert [transform['type'] for transform in pipeline] == [transform['type'] for transform in PIPELINE]
    view = ScoringView(dataset, pipeline)
    sample, original = view[0]['data_samples'], dataset.get_data_info(0)['instances'][0]['bbox']
    np.testing.assert_allclose(
        sample.gt_instances.bboxes.tensor[0], np.array(original) * sample.scale_factor[0], rtol=1e-5
    )


def test_looking_does_not_change_the_data_set(tiny_coco):
    dataset = DATASETS.build(coco(tiny_coco))
    before = copy.deepcopy(dataset.get_data_info(3))
    ScoringView(dataset, PIPELINE)[3]
    assert dataset.get_data_info(3) == before


def test_an_unreadable_image_is_named(tiny_coco):
    (tiny_coco / 'images' / '002.png').write_bytes(b'not a picture')
    view = ScoringView(DATASETS.build(coco(tiny_coco)), PIPELINE)
    with pytest.raises(MmacsError, match=r'cannot read image .*002\.png'):
        view[1]


def test_an_unknown_wrapper_is_named(tiny_coco):
    class Odd:
        def __len__(self):
            return 1

    with pytest.raises(MmacsError, match='wrapper Odd'):
        ScoringView(Odd(), PIPELINE)
