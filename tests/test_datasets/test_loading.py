"""Data sets of the libraries, read with care: labels, sizes, what is dropped, images that can't be read."""

import gzip
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

import mmacs.datasets  # noqa: F401
from mmacs.datasets import loading, reading
from mmacs.datasets.config_classes import check_classes
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.datasets.reading import count_other_sizes
from mmacs.utils.errors import MmacsError
from tests.conftest import write_coco

LOAD = [dict(type='LoadImageFromFile')]


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What is logged, in order."""
    lines = []
    monkeypatch.setattr(loading, '_said', set())
    for module in (loading, reading):
        monkeypatch.setattr(module, 'print_log', lambda line, *args, **kwargs: lines.append(line))
    return lines


@pytest.fixture
def folder(tmp_path):
    write_coco(tmp_path / 'set', [(64, 96)] * 6, [1, 2, 0, 3, 1, 2])
    return tmp_path / 'set'


def change(folder, edit):
    path = folder / 'annotations.json'
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


def coco(folder, kind='CocoDataset', classes=('a', 'b', 'c'), pipeline=LOAD, **more):
    given = {} if classes is None else dict(metainfo=dict(classes=classes))
    cfg = dict(type=kind, ann_file='annotations.json', data_root=str(folder), data_prefix=dict(img='images'), **given)
    filtering = dict(filter_empty_gt=True, min_size=32)
    return DATASETS.build({'_scope_': 'mmdet', 'filter_cfg': filtering, **cfg, 'pipeline': pipeline, **more})


# -------------------------------------------------------------------- classes
@pytest.mark.parametrize(
    ('classes', 'reason'),
    [
        (('a', 'bee', 'c'), "the class 'bee' of CocoDataset is not among the categories of .*, did you mean 'b'?"),
        (('A', 'B', 'C'), r"none of the 3 classes .* set metainfo=dict\(classes=\('a', 'b', 'c'\)\)"),
        (None, 'none of the 80 classes of CocoDataset .person, bicycle'),
        (('ship'), "classes of CocoDataset is the string 'ship': write .'ship',., with a comma"),
        (('b', 'a', 'c'), 'in another order .* write metainfo=dict'),
        (('a', 'b', 'b'), "names 'b' 2 times"),
        (('a', 'b', 'c', 'wagon'), r"the class 'wagon' of CocoDataset is not among .*\(a, b, c\)"),
    ],
)
def test_classes_that_the_file_has_not(folder, classes, reason):
    with pytest.raises(MmacsError, match=reason):
        coco(folder, classes=classes)


def test_fewer_classes_than_the_file_has_are_fine_and_said_once(folder, said):
    for _ in range(2):
        coco(folder, classes=('a', 'c'))
    left_out = [line for line in said if 'of classes that CocoDataset does not name' in line]
    assert len(left_out) == 1 and left_out[0].endswith("does not name: 'b'.")


class Own(CocoDataset):
    """A data set of a user's own."""

    METAINFO = {'classes': ('a', 'bee', 'c')}

    def load_data_list(self):
        return super().load_data_list()


class Joined(CocoDataset):
    """A data set of a user's own that makes one class of two categories."""

    METAINFO = {'classes': ('thing', 'c')}

    def load_data_list(self):
        coco = self.COCOAPI(self.ann_file)
        names = [category['name'] for category in coco.dataset['categories']]
        self.cat_ids = coco.get_cat_ids()
        self.cat2label = {one: int(name == 'c') for one, name in zip(self.cat_ids, names)}
        self.cat_img_map = coco.cat_img_map
        return [
            self.parse_data_info(dict(raw_img_info={**image, 'img_id': one}, raw_ann_info=coco.imgToAnns[one]))
            for one, image in coco.imgs.items()
        ]


def test_classes_that_need_not_be_those_of_the_file(folder):
    assert len(coco(folder, kind=Joined, classes=None)) == 5
    names = DATASETS.get('mmdet.iSAIDDataset').METAINFO['classes'][1:]  # its first, the background, is in no file
    change(folder, lambda data: [one.update(name=name) for one, name in zip(data['categories'], names)])
    assert len(coco(folder, kind='iSAIDDataset', classes=None)) == 5
    with pytest.raises(MmacsError, match="the class 'ships' of iSAIDDataset is not among .* did you mean 'ship'"):
        coco(folder, kind='iSAIDDataset', classes=('ships', *names[1:3]))


@pytest.mark.parametrize('kind', ['RepeatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset', 'ConcatDataset'])
def test_wrappers_and_classes_of_ones_own_are_read_alike(folder, kind):
    inner = dict(
        type=Own, ann_file='annotations.json', data_root=str(folder), data_prefix=dict(img='images'), pipeline=[]
    )
    settings = dict(
        RepeatDataset=dict(times=2, dataset=inner),
        ClassBalancedDataset=dict(oversample_thr=0.1, dataset=inner),
        MultiImageMixDataset=dict(dataset=inner, pipeline=[]),
        ConcatDataset=dict(datasets=[inner, inner]),
    )[kind]
    with pytest.raises(MmacsError, match="did you mean 'b'"):
        DATASETS.build({'_scope_': 'mmdet', 'type': kind, **settings})


@pytest.mark.parametrize(
    ('second', 'reason'),
    [
        (('a', 'bee'), "part 1 of train_dataloader has the class 'b', and part 2 has 'bee'"),
        (('b', 'a'), 'the same classes in different orders'),
        (('a',), "part 1 of train_dataloader has the class 'b', and part 2 has not"),
        ('ship', "is the string 'ship'"),
        ('nowhere/names.txt', 'is the file nowhere/names.txt, which is not there'),
    ],
)
def test_parts_of_a_concatenation(second, reason):
    parts = [dict(type='CocoDataset', metainfo=dict(classes=classes)) for classes in (('a', 'b'), second)]
    cfg = dict(dataset=dict(type='ConcatDataset', datasets=[dict(type='RepeatDataset', dataset=parts[0]), parts[1]]))
    with pytest.raises(MmacsError, match=reason):
        check_classes(cfg, 'train_dataloader', 'mmdet')
    parts[1]['metainfo'] = parts[0]['metainfo']
    check_classes(cfg, 'train_dataloader', 'mmdet')
    parts[1]['metainfo'] = 'a, b'
    with pytest.raises(MmacsError, match="metainfo of CocoDataset must be a dict, .* got 'a, b'"):
        check_classes(cfg, 'train_dataloader', 'mmdet')


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'a\nbee\n', "has the class 'b', and part 2 has 'bee'"),
        (b'\xe9\nb\n', 'cannot read the .* not UTF-8'),
        (gzip.compress(b'a\nb\n', mtime=0), 'compressed by gzip'),
        (b'\xef\xbb\xbfa\nb\n', 'starts with a byte order mark'),
    ],
)
def test_names_of_classes_in_a_file(tmp_path, content, reason):
    (tmp_path / 'names.txt').write_bytes(content)
    names = (('a', 'b'), str(tmp_path / 'names.txt'))
    parts = [dict(type='CustomDataset', classes=classes) for classes in names]
    with pytest.raises(MmacsError, match=reason):
        check_classes(dict(dataset=dict(type='ConcatDataset', datasets=parts)), 'train_dataloader', 'mmpretrain')


# -------------------------------------------------------------------- what is dropped
def test_dropped_images_are_counted_by_reason(folder, said):
    def edit(data):
        data['images'][0].update(height=20, width=30)
        for one in data['annotations']:
            if one['image_id'] == 1:
                one['bbox'] = [1, 1, 9, 9]

    change(folder, edit)
    assert len(coco(folder)) == 4
    assert any('trains on 4 of 6 images' in line and '1 have no object' in line for line in said)
    assert any('1 are smaller than 32 pixels' in line for line in said)


def test_no_image_left_to_train_on(folder, said):
    change(folder, lambda data: data.pop('annotations'))
    with pytest.raises(MmacsError, match=r'annotations.json is left to train on: it has no "annotations" \(6 have no'):
        coco(folder)
    assert len(coco(folder, test_mode=True)) == 6  # as for a test split whose objects are secret
    assert len(coco(folder, filter_cfg=None)) == 6 and 'no image has an object' in said[-1]
    change(folder, lambda data: data.update(images=[]))
    with pytest.raises(MmacsError, match='has no images'):
        coco(folder, test_mode=True)


def test_masks_that_the_pipeline_needs(folder):
    pipeline = [*LOAD, dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    with pytest.raises(MmacsError, match='images/001.png has an object without a segmentation'):
        coco(folder, pipeline=pipeline)
    change(folder, lambda data: [one.update(segmentation=[[1, 1, 20, 1, 20, 30]]) for one in data['annotations']])
    assert len(coco(folder, pipeline=pipeline)[0]['gt_masks']) == 1


class Panoptic(BaseDataset):
    """Masks lie in an image beside, as MMDetection's panoptic data sets have it."""

    def load_data_list(self):
        return [dict(img_path='1.jpg', instances=[dict(bbox=[1, 1, 9, 9], bbox_label=0)], segments_info=[dict(id=1)])]


def test_masks_that_lie_in_an_image_of_segments():
    def load(info):
        return info

    load.with_mask = True
    assert len(Panoptic(pipeline=[load])) == 1


# -------------------------------------------------------------------- sizes
def test_sizes_that_the_file_has_not_are_read_from_the_images(folder, said):
    def edit(data):
        for image in data['images'][:4]:
            image.update(width=-1, height=-1)

    change(folder, edit)
    dataset = coco(folder)
    assert [dataset.get_data_info(index)['width'] for index in range(len(dataset))] == [96] * 5
    assert sum(len(dataset.get_data_info(index)['instances']) for index in range(5)) == 9
    assert '4 of 6 images have no valid width and height' in said[0]


@pytest.mark.parametrize('workers', [0, 2])
def test_other_sizes_are_told_once_and_counted(folder, said, workers):
    change(folder, lambda data: data['images'][1].update(width=64, height=96))
    change(folder, lambda data: data['images'][3].update(width=500))
    dataset = coco(folder)
    for _ in range(2):
        list(DataLoader(dataset, num_workers=workers, collate_fn=len))
    assert count_other_sizes(dataset) == 2
    told = [line for line in said if 'pixels as it is read' in line]
    if not workers:  # they log by themselves
        assert len(told) == 1 and '002.png is 96 x 64' in told[0] and '64 x 96 in' in told[0] and 'EXIF' in told[0]


def test_without_shared_memory_one_process_reads_all(folder, monkeypatch):
    def refuse(tensor):
        raise RuntimeError('unable to allocate shared memory(shm) for file </torch_1>: Success (0)')

    monkeypatch.setattr(torch.Tensor, 'share_memory_', refuse)
    change(folder, lambda data: data['images'][0].update(width=99))
    dataset = coco(folder)
    assert all(dataset[index] is not None for index in range(len(dataset)))
    assert count_other_sizes(dataset) == 1


def test_exif_orientation_is_noticed(folder, said):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(folder / 'images' / '001.png').save(folder / 'images' / '001.jpg', exif=exif)
    change(folder, lambda data: data['images'][0].update(file_name='001.jpg'))
    dataset = coco(folder)
    dataset[0]
    assert count_other_sizes(dataset) == 1 and 'color_ignore_orientation' in said[-1]
    same = coco(folder, pipeline=[dict(type='LoadImageFromFile', color_type='color_ignore_orientation')])
    same[0]
    assert count_other_sizes(same) == 0


# -------------------------------------------------------------------- images
def damage(path, how):
    whole = path.read_bytes()
    if how == 'missing':
        path.unlink()
    elif how == 'empty':
        path.write_bytes(b'')
    elif how == 'text':
        path.write_text('<html>not found</html>')
    else:
        path.write_bytes(whole[: len(whole) * 2 // 3])


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
@pytest.mark.parametrize(
    ('how', 'reason'),
    [('missing', 'No such file'), ('empty', 'is empty'), ('text', 'it is no image'), ('cut', 'cut off or damaged')],
)
def test_an_image_that_cannot_be_read_is_named(folder, how, reason, suffix):
    path = folder / 'images' / f'009.{suffix}'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 96, 3)))
    change(folder, lambda data: data['images'][0].update(file_name=path.name))
    dataset = coco(folder)
    damage(path, how)
    expected = rf'cannot read image .*009\.{suffix}: .*{reason}'
    with pytest.raises(MmacsError, match=expected):
        dataset[0]
    with pytest.raises(MmacsError, match=expected):
        DistinctImages(dataset, LOAD)[0]


def test_bytes_behind_an_image_do_no_harm(folder):
    path = folder / 'images' / '001.jpg'
    Image.open(folder / 'images' / '001.png').save(path)
    path.write_bytes(path.read_bytes() + b'trailer of a telephone')
    change(folder, lambda data: data['images'][0].update(file_name=path.name))
    assert coco(folder)[0]['img'].shape == (64, 96, 3)


def test_other_errors_of_a_pipeline_stay_what_they_are(folder):
    class Broken:
        def __call__(self, info):
            raise KeyError('gt_masks')

    with pytest.raises(KeyError, match='gt_masks'):
        coco(folder, pipeline=[*LOAD, Broken()])[0]


def test_a_transform_that_fails_in_a_worker_is_named_with_its_image(folder):
    dataset = coco(folder, pipeline=[dict(type='RandomCrop', crop_size=(8, 8))])  # nothing loads the image
    expected = r"^the transform RandomCrop of the pipeline fails on .*png: there is no 'img' \(.*, line \d+\)$"
    with pytest.raises(MmacsError, match=expected):
        list(DataLoader(dataset, num_workers=1, collate_fn=len))


# -------------------------------------------------------------------- other forms of annotations
XML = (
    '<annotation><size><width>{w}</width><height>{h}</height></size><object><name>{name}</name><bndbox>'
    '<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object></annotation>'
)


@pytest.fixture
def voc(tmp_path):
    """Builds a VOC set of two images; ``text`` is the second's annotation."""
    for name in ('Annotations', 'JPEGImages'):
        (tmp_path / name).mkdir()

    def build(text=None, classes=('a', 'b'), test_mode=False, **values):
        values = {'w': 96, 'h': 64, 'name': 'b', 'box': (5, 5, 40, 40), **values}
        written = [XML.format(w=96, h=64, name='a', box=(5, 5, 40, 40)), XML.format(**values) if text is None else text]
        for number, one in enumerate(written):
            (tmp_path / 'Annotations' / f'{number}.xml').write_text(one)
            cv2.imwrite(str(tmp_path / 'JPEGImages' / f'{number}.jpg'), np.zeros((64, 96, 3), np.uint8))
        (tmp_path / 'list.txt').write_text('0\n1\n')
        return DATASETS.build(
            dict(
                type='mmdet.VOCDataset', data_root=str(tmp_path), ann_file='list.txt', pipeline=LOAD,
                data_prefix=dict(sub_data_root=''), metainfo=dict(classes=classes),
                filter_cfg=dict(filter_empty_gt=True, min_size=32), test_mode=test_mode,
            )
        )  # fmt: skip

    return build


@pytest.mark.parametrize(
    ('values', 'reason'),
    [
        (dict(text=''), '1.xml: ParseError: no element found'),
        (dict(text='<annotation><object><name>b</name></object></annotation>'), '1.xml: AttributeError'),
        (dict(box=('x', 1, 2, 3)), '1.xml: ValueError'),
        (dict(box=('nan', 1, 2, 3)), '1.xml: ValueError'),
        (dict(box=(40, 40, 5, 5)), r'1.xml has the box \[39, 39, 4, 4\]'),
        (dict(classes=('a', 'bee')), "class 'bee' of VOCDataset has no object in the files of .*did you mean 'b'"),
        (dict(classes=('x', 'y')), 'none of the classes of VOCDataset'),
    ],
)
def test_xml_files_that_are_wrong(voc, values, reason):
    with pytest.raises(MmacsError, match=reason):
        voc(**values)


def test_xml_files_that_can_be_put_right(voc, said):
    dataset = voc(w=0, h=0)
    assert (dataset.get_data_info(1)['width'], dataset.get_data_info(1)['height']) == (96, 64)
    assert '1 of 2 images have no valid width and height' in said[0]
    assert len(voc(box=(5, 5, 5, 40))) == 1 and any('boxes have no width or height' in line for line in said)
    assert len(voc(name='other', classes=('a',))) == 1 and any("does not name: 'other'" in line for line in said)


def test_a_small_split_for_tests_may_lack_a_class(voc):
    assert len(voc(name='cart', classes=('a', 'car'), test_mode=True)) == 2
    with pytest.raises(MmacsError, match="class 'car' of VOCDataset has no object"):
        voc(name='cart', classes=('a', 'car'))


@pytest.fixture
def folders(tmp_path):
    for name in ('cat', 'dog'):
        (tmp_path / 'set' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'set' / name / '1.png'), np.zeros((8, 8, 3), np.uint8))
    return tmp_path / 'set'


def classify(root, **more):
    return DATASETS.build(dict(type='mmpretrain.CustomDataset', data_root=str(root), **more))


def test_folders_as_classes(folders):
    assert classify(folders).metainfo['classes'] == ('cat', 'dog')
    assert len(classify(folders, classes=('Katze', 'Hund'))) == 2
    with pytest.raises(MmacsError, match="the class 'dog' of CustomDataset is number 0, and its folder in .* number 1"):
        classify(folders, classes=('dog', 'cat'))
    with pytest.raises(MmacsError, match=r'3 classes \(cat, cow, dog\), and .* 2 folders \(cat, dog\)'):
        classify(folders, classes=('cat', 'cow', 'dog'))
    (folders / '.ipynb_checkpoints').mkdir()
    with pytest.raises(MmacsError, match=r'\.ipynb_checkpoints would be a class of CustomDataset: remove'):
        classify(folders)


@pytest.mark.parametrize(
    ('lines', 'reason'),
    [
        (b'cat/1.png 0\n\ndog/1.png 1\n', "line 2 .''., which is no path and label"),
        (b'cat/1.png 0\ndog/1.png one\n', "line 2 .'dog/1.png one'."),
        (b'cat/1.png 0\ndog/1.png 2\n', 'dog/1.png has the label 2, and there are 2 classes, counted from 0'),
        (b'cat/1.png -1\n', 'has the label -1, and labels count from 0'),
        ('\u4e2d\u6587/1.png 0\n'.encode('gbk'), 'list.txt: it is not UTF-8'),
        (gzip.compress(b'cat/1.png 0\n', mtime=0), 'it is compressed by gzip; unpack it'),
        (b'\xef\xbb\xbfcat/1.png 0\n', 'starts with a byte order mark'),
        (b'', 'has no images'),
    ],
)
def test_lists_of_images(folders, lines, reason):
    (folders / 'list.txt').write_bytes(lines)
    with pytest.raises(MmacsError, match=reason) as error:
        classify(folders, ann_file='list.txt', classes=('cat', 'dog'))
    assert 'list.txt' in str(error.value)


def test_an_image_with_two_labels_is_said(folders, said):
    (folders / 'list.txt').write_text('cat/1.png 0\ndog/1.png 1\ncat/1.png 1\ndog/1.png 1\n')
    assert len(classify(folders, ann_file='list.txt')) == 4
    (sentence,) = said
    assert '1 images are listed with more than one label' in sentence and 'cat/1.png, 0 and 1' in sentence
