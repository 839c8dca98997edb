import copy

import numpy as np
import pytest
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset, ConcatDataset

from mmacs.coreset.data import TrainingData, scoring_pipeline
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


def test_repeated_images_are_seen_once(tiny_coco):
    dataset = DATASETS.build(dict(type='RepeatDataset', times=3, dataset=coco(tiny_coco)))
    view = TrainingData(dataset, PIPELINE)
    assert len(view) == 12
    assert view.positions.tolist() == list(range(12)) * 3


def test_concatenated_and_filtered_sets_keep_their_order(tiny_coco):
    both = [coco(tiny_coco, filter_cfg=dict(filter_empty_gt=True, min_size=1)), coco(tiny_coco)]
    dataset = DATASETS.build(dict(type='ConcatDataset', datasets=both))
    view = TrainingData(dataset, PIPELINE)
    assert len(view) == 22
    assert [view.image_id(position) for position in view.positions] == [
        dataset.get_data_info(index)['img_id'] for index in range(22)
    ]


def test_class_balanced_and_mixing_wrappers(tiny_coco):
    class_balanced = DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=coco(tiny_coco)))
    view = TrainingData(class_balanced, PIPELINE)
    assert len(view) == 12 < len(view.positions)
    mixed = DATASETS.build(dict(type='MultiImageMixDataset', pipeline=[], dataset=coco(tiny_coco)))
    assert len(TrainingData(mixed, PIPELINE)) == 12


def test_annotations_follow_the_image_through_resizing(tiny_coco):
    dataset = DATASETS.build(coco(tiny_coco))
    test = [PIPELINE[0], PIPELINE[2], PIPELINE[1], PIPELINE[3]]  # as MMDetection's test pipelines have it
    train = [*PIPELINE[:2], dict(type='RandomFlip', prob=0.5), PIPELINE[3]]
    pipeline = scoring_pipeline(train, test)
    assert [transform['type'] for transform in pipeline] == [transform['type'] for transform in PIPELINE]
    view = TrainingData(dataset, pipeline)
    sample, original = view[0]['data_samples'], dataset.get_data_info(0)['instances'][0]['bbox']
    np.testing.assert_allclose(
        sample.gt_instances.bboxes.tensor[0], np.array(original) * sample.scale_factor[0], rtol=1e-5
    )


def test_looking_does_not_change_the_data_set(tiny_coco):
    dataset = DATASETS.build(coco(tiny_coco))
    before = copy.deepcopy(dataset.get_data_info(3))
    TrainingData(dataset, PIPELINE)[3]
    assert dataset.get_data_info(3) == before


def test_a_pipeline_that_draws_at_random_is_refused_and_random_states_stay(tiny_coco):
    flip = dict(type='RandomFlip', prob=0.5)
    data = DATASETS.build(coco(tiny_coco))
    before = np.random.get_state()[1].copy()
    with pytest.raises(MmacsError, match='another image each time'):
        TrainingData(data, [*PIPELINE[:-1], flip, PIPELINE[-1]]).check_pipeline()
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    TrainingData(data, PIPELINE).check_pipeline()


def test_a_pipeline_without_annotations_is_refused(tiny_coco):
    with pytest.raises(MmacsError, match='gives no boxes: add LoadAnnotations'):
        TrainingData(DATASETS.build(coco(tiny_coco)), [PIPELINE[0], *PIPELINE[2:]]).check_pipeline()


def test_an_unreadable_image_is_named(tiny_coco):
    (tiny_coco / 'images' / '002.png').write_bytes(b'not a picture')
    view = TrainingData(DATASETS.build(coco(tiny_coco)), PIPELINE)
    with pytest.raises(MmacsError, match=r'cannot read image .*002\.png'):
        view[1]


def test_an_unknown_wrapper_is_named(tiny_coco):
    class Odd:
        def __len__(self):
            return 1

    with pytest.raises(MmacsError, match='wrapper Odd'):
        TrainingData(Odd(), PIPELINE)


class Listed(BaseDataset):
    """Images that are given as infos."""

    def __init__(self, infos):
        self.infos = infos
        super().__init__(serialize_data=False)  # which takes a while

    def load_data_list(self):
        return copy.deepcopy(self.infos)


def classes(*labels, **more):
    return [dict(img_path=f'{number}.png', gt_label=label, **more) for number, label in enumerate(labels)]


def boxes(*images):
    """Infos of images from labels of their objects; a negative one is that of a crowd."""
    return [
        dict(
            img_path=f'{number}.png',
            img_id=100 + number,
            height=8,
            width=9,
            instances=[dict(bbox=[0, 0, 1, label], bbox_label=abs(label), ignore_flag=int(label < 0)) for label in own],
        )
        for number, own in enumerate(images)
    ]


def listed(infos):
    return TrainingData(Listed(infos), [])


def test_fingerprints_tell_data_sets_apart():
    def changed(number, **values):
        infos = boxes([1, 2], [], [0])
        infos[number].update(values)
        return infos

    def moved(key, value):
        infos = boxes([1, 2], [], [0])
        infos[0]['instances'][1][key] = value
        return infos

    data_sets = [
        boxes([1, 2], [], [0]),
        boxes([1, 2], [0], []),
        boxes([1, 2], []),
        boxes([2, 1], [], [0]),
        changed(1, img_path='other.png'),
        changed(1, width=10),
        changed(1, img_id=7),
        moved('bbox', [0, 0, 1, 2.5]),
        moved('bbox_label', 3),
        moved('ignore_flag', 1),
        classes(0, 1, 2),
        classes(0, 2, 1),
        classes(0, 1, 2)[::-1],
        classes(0, [1], 2),
    ]
    found = [listed(infos).fingerprint for infos in data_sets]
    assert len(set(found)) == len(found)
    assert listed(boxes([1, 2], [], [0])).fingerprint == found[0]


def test_fingerprints_are_of_values_not_of_their_types():
    plain = listed(classes(0, 1, [0, 2]))
    arrays = listed(classes(np.int64(0), np.array(1), np.array([0, 2])))
    assert plain.fingerprint == arrays.fingerprint


def test_fingerprints_follow_file_sizes_but_not_folders(tmp_path):
    def view(folder):
        return listed([dict(img_path=str(tmp_path / folder / '0.png'), gt_label=0)])

    for folder in 'ab':
        (tmp_path / folder).mkdir()
        (tmp_path / folder / '0.png').write_bytes(b'1234')
    assert view('a').fingerprint == view('b').fingerprint
    (tmp_path / 'b' / '0.png').write_bytes(b'12345')
    assert view('a').fingerprint != view('b').fingerprint


def test_labels_of_classes_and_of_objects():
    assert listed(classes(2, 0, 2)).labels.toarray().tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert listed(classes([0, 1], [], [1])).labels.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]
    # an image holds a class once, however many objects; a crowd is none
    found = listed(boxes([1, 1, 2], [], [-2], [-1, 1])).labels
    assert found.dtype == bool
    assert found.toarray().tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert listed(boxes([], [])).labels.shape == (2, 0)


def test_objects_are_counted_without_crowds(tiny_coco):
    assert listed(boxes([1, 1, 2], [], [-2], [-1, 1])).object_counts.tolist() == [3, 0, 0, 1]
    counts = TrainingData(DATASETS.build(coco(tiny_coco)), PIPELINE).object_counts
    assert counts.tolist() == [1, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3]
    with pytest.raises(MmacsError, match="data set with objects: take 'rank'"):
        _ = listed(classes(0, 1)).object_counts


def test_images_are_found_again_by_their_data_samples(tiny_coco):
    dataset = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=coco(tiny_coco)))
    view = TrainingData(dataset, PIPELINE)
    samples = [dataset[index]['data_samples'] for index in (14, 0, 2)]
    assert view.positions_of(samples).tolist() == [2, 0, 2]
    assert view.by_key[str(tiny_coco / 'images' / '003.png')] == 2
    assert view.positions_of([]).shape == (0,)
    for unknown in ({}, {'sample_idx': 2}):  # as where the transform that packs leaves the path out
        with pytest.raises(MmacsError, match="give the packing transform's meta_keys 'img_path'"):
            view.positions_of([unknown])


def test_images_without_files_are_found_by_their_place():
    infos = [dict(img=np.zeros((2, 2, 3)), gt_label=0) for _ in range(3)]
    view = listed(infos)
    assert view.by_key == {0: 0, 1: 1, 2: 2}
    assert view.positions_of([{'sample_idx': 2}, {'sample_idx': 0}]).tolist() == [2, 0]
    assert view.image_ids.tolist() == [0, 1, 2]


def test_images_that_cannot_be_told_apart_are_refused():
    same = ConcatDataset([Listed(classes(0, 1)), Listed(classes(1, 0))])
    with pytest.raises(MmacsError, match='cannot be told apart'):
        _ = TrainingData(same, []).by_key


def test_what_the_pipeline_drops_is_named():
    with pytest.raises(MmacsError, match=r'drops image 1\.png'):
        TrainingData(Listed(classes(0, 1)), [lambda info: None])[1]
