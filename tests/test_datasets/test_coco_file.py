"""Annotation files in COCO's form: what is filled in, what is remarked, what is refused."""

import gzip
import json
from copy import deepcopy

import numpy as np
import pytest
from mmengine.registry import DATASETS
from pycocotools import mask

import mmacs.datasets  # noqa: F401
from mmacs.datasets.coco_file import NO_SIZE, read_coco
from mmacs.utils.errors import MmacsError

GOOD = {
    'images': [dict(id=n, file_name=f'{n}.jpg', width=100, height=80) for n in (1, 2)],
    'categories': [dict(id=1, name='a'), dict(id=2, name='b')],
    'annotations': [
        dict(id=n, image_id=n, category_id=n, bbox=[1, 2, 30, 40], area=1200, iscrowd=0, segmentation=[])
        for n in (1, 2)
    ],
}
TRIANGLE = [[1, 1, 20, 1, 20, 30]]


@pytest.fixture
def read(tmp_path):
    """Reads a file with the good content, changed, or with bytes of its own."""

    def run(change=None, content=None):
        data = deepcopy(GOOD)
        if change is not None:
            change(data)
        path = tmp_path / 'ann.json'
        written = json.dumps(data).encode() if content is None else content
        path.write_bytes(written)
        found = read_coco(path)
        assert path.read_bytes() == written
        return found

    return run


def put(part='annotations', place=0, **values):
    return lambda data: data[part][place].update(values)


def drop(*keys, part='annotations'):
    return lambda data: [one.pop(key) for one in data[part] for key in keys]


def test_a_good_file_is_left_as_it_is(read):
    content, remarks = read()
    assert content == GOOD and remarks == []


@pytest.mark.parametrize(
    ('change', 'key', 'filled', 'remark'),
    [
        (drop('iscrowd'), 'iscrowd', [0, 0], '2 of 2 annotations have no "iscrowd"'),
        (put(iscrowd=None), 'iscrowd', [0, 0], '1 of 2 annotations have no "iscrowd"'),
        (drop('area'), 'area', [1200, 1200], '2 of 2 annotations have no "area" above 0'),
        (put(place=1, area=0), 'area', [1200, 1200], "first: annotation 2 of image 2 ('2.jpg')"),
        (put(area=float('nan')), 'area', [1200, 1200], 'have no "area" above 0'),
        (put(bbox=None, segmentation=TRIANGLE), 'bbox', [[1, 1, 19, 29], [1, 2, 30, 40]], 'drawn around'),
        (put(bbox=[], segmentation=TRIANGLE[0]), 'segmentation', [TRIANGLE, []], 'no list of polygons'),
        (drop('id'), 'id', [1, 2], 'all are counted anew, from 1'),
        (put(id=0), 'id', [1, 2], 'all are counted anew'),
        (put(id=1.0, image_id=1.0), 'image_id', [1, 2], '2 ids are written with a decimal point'),
        (put(id=2), 'id', [1, 2], '(2 stands 2 times)'),
        (put(place=1, id='x'), 'id', [1, 2], 'all are counted anew'),
        (lambda data: [one.update(iscrowd=1) for one in data['annotations']], 'iscrowd', [1, 1], 'all annotations are'),
        (put(ignore=1), 'id', [1, 2], '1 of 2 annotations have "ignore"'),
        (put(bbox=[5, 5, 0, 9]), 'bbox', [[5, 5, 0, 9], [1, 2, 30, 40]], 'narrower than a pixel'),
        (put(bbox=[300, 5, 9, 9]), 'bbox', [[300, 5, 9, 9], [1, 2, 30, 40]], '1 of 2 annotations lie outside'),
        (put(bbox=[50, 5, 90, 9]), 'bbox', [[50, 5, 90, 9], [1, 2, 30, 40]], 'are they x1, y1, x2, y2'),
    ],
)
def test_what_is_safe_is_filled_in_and_said(read, change, key, filled, remark):
    content, remarks = read(change)
    assert [one[key] for one in content['annotations']] == filled
    assert any(remark in one for one in remarks)


@pytest.mark.parametrize('compressed', [False, True])
def test_a_box_is_drawn_around_a_run_length_encoded_mask(read, compressed):
    pixels = np.zeros((80, 100), dtype=np.uint8, order='F')
    pixels[10:30, 40:45] = 1
    encoded = mask.encode(pixels)
    counts = np.diff(np.flatnonzero(np.diff(np.r_[2, pixels.ravel('F'), 2]))).tolist()
    segmentation = dict(size=[80, 100], counts=encoded['counts'].decode() if compressed else counts)
    content, _ = read(put(bbox=None, segmentation=segmentation))
    assert content['annotations'][0]['bbox'] == [40, 10, 5, 20]


@pytest.mark.parametrize(
    'size', [{'width': -1, 'height': -1}, {'width': None}, {'height': float('nan')}, {'width': '9'}]
)
def test_sizes_that_none_has_are_marked(read, size):
    content, remarks = read(put('images', **size))
    assert [one['width'] for one in content['images']] == [NO_SIZE, 100]
    assert remarks[0].startswith('1 of 2 images have no valid width and height')


def test_a_category_that_repeats_another_one_without_objects_is_left_out(read):
    """Some exports list the name of the whole data set first."""
    content, remarks = read(lambda data: data['categories'].insert(0, dict(id=0, name='a')))
    assert [one['id'] for one in content['categories']] == [1, 2]
    assert 'categories repeat' in remarks[0]


def test_files_that_are_legal(read):
    assert 'annotations' not in read(lambda data: data.pop('annotations')).content
    assert read(lambda data: data.update(annotations=[])).remarks == []
    assert read(content=json.dumps(GOOD).encode('utf-8-sig')).content == GOOD
    assert read(content=json.dumps(GOOD).encode('utf-16')).content == GOOD
    assert read(put(iscrowd=True, bbox=[-0.5, 1.5, 30, 40])).remarks == []
    strings = json.loads(json.dumps(GOOD).replace('"image_id": 1', '"image_id": "p"'))
    strings['annotations'].pop()
    strings['images'] = [dict(id='p', file_name='1.jpg', width=100, height=80)]
    assert read(lambda data: data.update(strings)).remarks == []


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (
            put(bbox=[float('nan'), 1, 2, 3]),
            "annotation 1 of image 1 ('1.jpg') has the box [nan, 1, 2, 3], which is no",
        ),
        (put(bbox=[1, 1, float('inf'), 3]), 'which is no x, y, width, height'),
        (put(bbox=['1', '1', '2', '3']), 'which is no x, y, width, height'),
        (put(bbox=[None, 1, 2, 3]), 'which is no x, y, width, height'),
        (put(bbox=[1, 2, 3]), 'which is no x, y, width, height'),
        (put(bbox={'x': 1}), 'which is no x, y, width, height'),
        (put(bbox=[9, 9, -5, 3]), 'negative width or height'),
        (put(place=1, bbox=None), "annotation 2 of image 2 ('2.jpg') has neither"),
        (put(bbox=None, segmentation=[[1, 2]]), 'has neither a "bbox" nor a valid "segmentation"'),
        (put(bbox=None, segmentation={'counts': 'x'}), 'has neither'),
        (put(iscrowd='0'), 'has \'0\' as "iscrowd", which is 0 or 1'),
        (put(iscrowd=2), 'has 2 as "iscrowd"'),
        (put(image_id=77), 'the image_id 77, and the file lists no such image: list it, or take the annotation out'),
        (put(image_id='1'), 'write 1, as there'),
        (put(image_id=1.5), 'has 1.5 as its "image_id"'),
        (put(image_id=[1]), 'has [1] as its "image_id"'),
        (put(category_id=9), 'has the category_id 9, and the file lists no such category'),
        (drop('category_id'), 'has None as its "category_id"'),
        (put('images', 1, id=1), "2 images share the id 1, '1.jpg' and '2.jpg'"),
        (put('images', 1, id=None), 'has None as its "id"'),
        (put('images', 1, id='2'), 'some ids of images are numbers and some are strings'),
        (put('images', 1, file_name=None), 'image 2 has no "file_name"'),
        (put('categories', 1, id=1), "the categories 'a' and 'b' share the id 1"),
        (put('categories', 1, name='a'), "the categories 1 and 2 are both called 'a'"),
        (put('categories', 1, name=None), 'category 2 has no "name"'),
        (lambda data: data.update(annotations=None), 'its "annotations" is no list'),
        (lambda data: data.update(images=['x']), 'number 0 of "images" is no object but \'x\''),
        (lambda data: data.pop('images'), 'it has no "images"'),
        (lambda data: data.pop('categories'), 'it has no "categories"'),
    ],
)
def test_what_is_not_safe_is_refused_by_name(read, change, reason):
    with pytest.raises(MmacsError) as error:
        read(change)
    assert 'ann.json' in str(error.value) and reason in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'it is empty'),
        (b' \n', 'it is cut off or not JSON'),
        (json.dumps(GOOD).encode()[:300], 'it is cut off or not JSON'),
        (b'[1, 2]', 'it is not a JSON object'),
        ('{"images": [], "info": "中文"}'.encode('gbk'), 'it is not UTF-8 (byte 0xd6 at position 24)'),
        ('{"images": [], "info": "é"}'.encode('latin-1'), 'it is not UTF-8'),
        (b'\x89PNG\r\n\x1a\n', 'it is not UTF-8'),
        (gzip.compress(b'{}', mtime=0), 'it is compressed by gzip; unpack it'),
        (b'[' * 100000, 'it cannot be read'),
    ],
)
def test_files_that_are_not_coco(read, content, reason):
    with pytest.raises(MmacsError) as error:
        read(content=content)
    assert 'ann.json is not a COCO annotation file' in str(error.value) and reason in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(MmacsError, match='cannot read .*none.json: No such file'):
        read_coco(tmp_path / 'none.json')


def test_what_is_filled_in_reaches_data_set_and_metric(tmp_path):
    """Ids from 0, with which pycocotools counts the first object as missed, and no iscrowd, without which it fails."""
    import torch
    from mmdet.registry import METRICS

    data = deepcopy(GOOD)
    for number, one in enumerate(data['annotations']):
        one['id'] = number
        del one['iscrowd'], one['area']
    (tmp_path / 'ann.json').write_text(json.dumps(data))
    ann_file = str(tmp_path / 'ann.json')
    dataset = DATASETS.build(
        dict(
            type='mmdet.CocoDataset',
            ann_file=ann_file,
            data_prefix=dict(img=''),
            metainfo=dict(classes=('a', 'b')),
            test_mode=True,
        )
    )
    metric = METRICS.build(dict(type='CocoMetric', ann_file=ann_file))
    metric.dataset_meta = dataset.metainfo
    infos = [dataset.get_data_info(index) for index in range(2)]
    samples = [
        dict(
            img_id=info['img_id'],
            ori_shape=(80, 100),
            pred_instances=dict(
                bboxes=torch.tensor([one['bbox'] for one in info['instances']]),
                labels=torch.tensor([one['bbox_label'] for one in info['instances']]),
                scores=torch.ones(1),
            ),
        )
        for info in infos
    ]
    metric.process({}, samples)
    assert metric.evaluate(2)['coco/bbox_mAP'] == 1.0
