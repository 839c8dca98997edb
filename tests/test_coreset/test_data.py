import hashlib
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.dataset import ConcatDataset, RepeatDataset
from scipy.sparse import csr_matrix
from torch.multiprocessing import spawn

from mmacs.coreset import annotations
from mmacs.coreset.data import TrainingData
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError
from tests.test_coreset.test_image_contents import LOAD, files, write
from tests.test_coreset.test_image_contents import contents as image_contents_of
from tests.test_datasets.test_distinct_images import Listed, coco


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


def read(dataset, folder=None):
    return TrainingData.read(DistinctImages(dataset, []), folder)


def listed(infos):
    return read(Listed(infos))


# -------------------------------------------------------------------- fingerprint
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
    def data(folder):
        return listed([dict(img_path=str(tmp_path / folder / '0.png'), gt_label=0)])

    for folder in 'ab':
        (tmp_path / folder).mkdir()
        (tmp_path / folder / '0.png').write_bytes(b'1234')
    assert data('a').fingerprint == data('b').fingerprint
    (tmp_path / 'b' / '0.png').write_bytes(b'12345')
    assert data('a').fingerprint != data('b').fingerprint


def test_fingerprints_stay_those_that_checkpoints_hold():
    infos = boxes([1, 2], [], [-3])
    infos[1]['instances'] = [dict(bbox=[0.1, 1e-7, 123456.789, 2 / 3], bbox_label=0)]
    infos[2].update(img_id='ä', img_path='folder/ä "1".png')
    assert listed(infos).fingerprint == 'e24f6745a3053f79'
    assert listed(classes(3, [0, 1])).fingerprint == '88a6862ea60dece9'


# -------------------------------------------------------------------- labels, counts
def test_labels_of_classes_and_of_objects():
    assert listed(classes(2, 0, 2)).labels.toarray().tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert listed(classes([0, 1], [], [1])).labels.toarray().tolist() == [[1, 1], [0, 0], [0, 1]]
    # an image holds a class once, however many objects; a crowd is none
    found = listed(boxes([1, 1, 2], [], [-2], [-1, 1])).labels
    assert found.dtype == bool
    assert found.toarray().tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert listed(boxes([], [])).labels.shape == (2, 0)


def test_a_negative_class_is_named():
    with pytest.raises(MmacsError, match=r'image 1\.png has the class -1'):
        _ = listed(classes(0, [2, -1])).labels


def test_objects_are_counted_without_crowds(tiny_coco):
    assert listed(boxes([1, 1, 2], [], [-2], [-1, 1])).object_counts.tolist() == [3, 0, 0, 1]
    counts = read(DATASETS.build(coco(tiny_coco))).object_counts
    assert counts.tolist() == [1, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3]
    for infos in (classes(0, 1), boxes([1]) + classes(0)):
        with pytest.raises(MmacsError, match="data set with objects: take 'rank'"):
            _ = listed(infos).object_counts


def test_a_data_set_without_images_is_refused():
    with pytest.raises(MmacsError, match='has no images'):
        listed([])


# -------------------------------------------------------------------- which image is which
def test_images_are_found_again_by_their_data_samples(tiny_coco):
    dataset = DATASETS.build(dict(type='RepeatDataset', times=2, dataset=coco(tiny_coco)))
    data = read(dataset)
    samples = [dataset[index]['data_samples'] for index in (14, 0, 2)]
    assert data.positions_of(samples).tolist() == [2, 0, 2]
    assert data.by_key[str(tiny_coco / 'images' / '003.png')] == 2
    assert data.positions_of([]).shape == (0,)
    for unknown in ({}, {'sample_idx': 2}):  # as where the transform that packs leaves the path out
        with pytest.raises(MmacsError, match="give the packing transform's meta_keys 'img_path'"):
            data.positions_of([unknown])


def test_images_without_files_are_found_by_their_place():
    data = listed([dict(img=np.zeros((2, 2, 3)), gt_label=0) for _ in range(3)])
    assert data.by_key == {0: 0, 1: 1, 2: 2}
    assert data.positions_of([{'sample_idx': 2}, {'sample_idx': 0}]).tolist() == [2, 0]
    assert data.image_ids.tolist() == [0, 1, 2]


def test_paths_may_be_path_objects():
    data = listed([dict(img_path=Path('a') / f'{number}.png', gt_label=0) for number in range(2)])
    assert data.image_ids.tolist() == ['a/0.png', 'a/1.png']
    assert data.positions_of([{'img_path': Path('a/1.png')}, {'img_path': 'a/0.png'}]).tolist() == [1, 0]


@pytest.mark.parametrize('infos', [classes(1, 0), [dict(gt_label=0)] * 2])
def test_images_that_cannot_be_told_apart_are_refused(infos):
    with pytest.raises(MmacsError, match='cannot be told apart'):
        _ = read(ConcatDataset([Listed(infos), Listed(infos[::-1])])).by_key


# -------------------------------------------------------------------- all of it, by a slow definition
def slow(dataset, positions):
    """What a data set holds, info by info; positions are known."""
    first = [positions.tolist().index(position) for position in range(max(positions) + 1)]
    infos = [dataset.get_data_info(index) for index in first]
    digest, rows, columns, counts = hashlib.sha256(), [], [], []
    for row, info in enumerate(infos):
        facts = [info.get(key) for key in ('img_id', 'height', 'width', 'gt_label')]
        facts += [[i.get(key) for key in ('bbox', 'bbox_label', 'ignore_flag')] for i in info.get('instances', ())]
        if info.get('img_path') is not None:
            exists = os.path.exists(info['img_path'])
            facts += [os.path.basename(info['img_path']), os.path.getsize(info['img_path']) if exists else None]
        digest.update(json.dumps(facts, default=lambda value: np.asarray(value).tolist()).encode())
        objects = [i for i in info.get('instances', ()) if not i.get('ignore_flag')]
        held = np.unique(info['gt_label'] if 'gt_label' in info else [i['bbox_label'] for i in objects])
        rows += [row] * len(held)
        columns += held.astype(int).tolist()
        counts.append(len(objects))
    shapes = np.asarray([(info.get('height', 1), info.get('width', 1)) for info in infos])
    return {
        'fingerprint': digest.hexdigest()[:16],
        'labels': csr_matrix((np.ones(len(rows), bool), (rows, columns)), (len(infos), max(columns) + 1)).toarray(),
        'counts': counts,
        'by_shape': np.lexsort((shapes[:, 0], shapes[:, 1] / shapes[:, 0])),
        'image_ids': np.asarray([i.get('img_id', i.get('img_path', row)) for row, i in enumerate(infos)]),
        'noisy': [bool(info.get('noise')) for info in infos],
        'by_key': {info.get('img_path') or info['sample_idx']: row for row, info in enumerate(infos)},
    }


def check(data, expected, objects=True):
    assert data.fingerprint == expected['fingerprint']
    assert data.labels.has_canonical_format and data.labels.dtype == bool
    for name in ('by_shape', 'noisy', 'image_ids'):
        assert getattr(data, name).dtype == np.asarray(expected[name]).dtype
        np.testing.assert_array_equal(getattr(data, name), expected[name])
    np.testing.assert_array_equal(data.labels.toarray(), expected['labels'])
    if objects:
        assert data.object_counts.dtype == np.int64 and data.object_counts.tolist() == expected['counts']
    assert data.by_key == expected['by_key']


def random_boxes(count, seed, text_ids=False):
    rng = random.Random(seed)
    infos = []
    for number in range(count):
        objects = [
            dict(
                bbox=[rng.uniform(0, 99), rng.randrange(99), rng.gauss(0, 1e6), rng.random() * 1e-9],
                bbox_label=rng.randrange(7),
                ignore_flag=int(rng.random() < 0.2),
            )
            for _ in range(rng.choice([0, 0, 1, 2, 9]))
        ]
        info = dict(img_path=f'nowhere/{seed}/{number:03d}.png', height=rng.choice([3, 4.5]), width=rng.choice([3, 8]))
        info.update(img_id=f'{seed}-{number}' if text_ids else number, instances=objects)
        if rng.random() < 0.5:
            info['noise'] = rng.choice([[], [dict(kind='label', was=1)]])
        infos.append(info)
    return infos


def random_classes(count, paths):
    rng = random.Random(count)
    labels = [rng.choice([3, np.int64(2), [0, 5], np.array([4, 4, 1]), np.array(0), []]) for _ in range(count)]
    return [dict(gt_label=label, **({'img_path': f'{n}.jpg'} if paths else {})) for n, label in enumerate(labels)]


@pytest.mark.parametrize('serialize_data', [False, True])
@pytest.mark.parametrize('chunk', [4096, 7])
def test_all_arrays_are_those_of_the_infos(tmp_path, monkeypatch, serialize_data, chunk):
    monkeypatch.setattr(annotations, '_CHUNK', chunk)

    def make(infos):
        return Listed(infos, serialize_data=serialize_data)

    data_sets = {
        'detector': make(random_boxes(40, 0)),
        'text': make(random_boxes(9, 1, text_ids=True)),
        'both': ConcatDataset([make(random_boxes(20, 2)), make(random_boxes(9, 3, text_ids=True))]),
        'repeated': RepeatDataset(make(random_boxes(20, 4)), 3),
        'files': make(random_classes(30, paths=True)),
        'arrays': make(random_classes(30, paths=False)),
    }
    for name, dataset in data_sets.items():
        images = DistinctImages(dataset, [])
        expected = slow(dataset, images.positions)
        for _ in range(2):  # the second time from disk, if it is serialized
            check(TrainingData.read(images, tmp_path), expected, objects=name not in ('files', 'arrays'))
    assert len(list(tmp_path.iterdir())) == serialize_data * len(data_sets)


# -------------------------------------------------------------------- on disk
@pytest.fixture
def passes(monkeypatch):
    """Counts how often annotations are gone through."""
    counted = []

    def read(images, own=annotations._read):
        counted.append(len(images))
        return own(images)

    monkeypatch.setattr(annotations, '_read', read)
    return counted


def build(folder, **changes):
    return DATASETS.build(coco(folder, **changes))


def test_a_second_start_takes_what_the_first_one_read(tiny_coco, tmp_path, passes):
    first = read(build(tiny_coco), tmp_path / 'kept')
    again = read(DATASETS.build(dict(type='RepeatDataset', times=3, dataset=coco(tiny_coco))), tmp_path / 'kept')
    assert passes == [12]
    assert again.fingerprint == first.fingerprint and again.by_key == first.by_key
    assert len(again.positions) == 36 and (again.labels != first.labels).nnz == 0


def edit(folder, change):
    file = folder / 'annotations.json'
    content = json.loads(file.read_text())
    change(content)
    times = file.stat()
    file.write_text(json.dumps(content))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def relabel(content):
    content['annotations'][0]['category_id'] = content['annotations'][0]['category_id'] % 3 + 1


def rename(content):
    content['images'][3]['file_name'] = '03.png'


@pytest.mark.parametrize('change', [relabel, rename, lambda content: content['images'].reverse()])
def test_annotations_that_change_are_read_again(tiny_coco, tmp_path, passes, change):
    before = read(build(tiny_coco), tmp_path)
    edit(tiny_coco, change)
    after = read(build(tiny_coco), tmp_path)
    assert len(passes) == 2 and after.fingerprint != before.fingerprint
    check(after, slow(build(tiny_coco), after.positions))


@pytest.mark.parametrize(
    'changes',
    [
        dict(filter_cfg=dict(filter_empty_gt=True)),
        dict(metainfo=dict(classes=('a', 'c'))),
        dict(indices=5),
        dict(indices=[*range(11, -1, -1)]),
    ],
)
def test_another_part_or_reading_of_the_same_file_is_read_for_itself(tiny_coco, tmp_path, passes, changes):
    config = coco(tiny_coco)
    config.update(changes)
    read(build(tiny_coco), tmp_path)
    other = read(DATASETS.build(config), tmp_path)
    assert len(passes) == 2
    check(other, slow(DATASETS.build(config), other.positions))


def test_order_and_repetition_of_data_sets_count(tiny_coco, tmp_path, passes):
    parts = [build(tiny_coco), build(tiny_coco, indices=4)]
    for dataset in (ConcatDataset(parts), ConcatDataset(parts[::-1])):
        data = read(dataset, tmp_path)
        assert data.image_ids.tolist() == [dataset.get_data_info(index)['img_id'] for index in range(16)]
    assert passes == [16, 16]


def test_image_files_that_change_are_noticed(tiny_coco, tmp_path, passes):
    before = read(build(tiny_coco), tmp_path)
    with open(tiny_coco / 'images' / '007.png', 'ab') as file:
        file.write(b'0')
    after = read(build(tiny_coco), tmp_path)
    assert after.fingerprint != before.fingerprint
    assert read(build(tiny_coco), tmp_path).fingerprint == after.fingerprint and len(passes) == 2


def test_a_data_set_that_changes_its_infos_as_they_are_asked_for_is_never_kept(tmp_path, passes):
    class Relabelled(Listed):
        label = 0

        def get_data_info(self, idx):
            return {**super().get_data_info(idx), 'gt_label': self.label}

    dataset = Relabelled(classes(1, 1), serialize_data=True)
    assert read(dataset, tmp_path).labels.toarray().tolist() == [[1], [1]]
    Relabelled.label = 1
    assert read(dataset, tmp_path).labels.toarray().tolist() == [[0, 1], [0, 1]]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('at', [0, 0.3, 0.6, -10])
def test_a_damaged_file_is_read_anew(tiny_coco, tmp_path, passes, at):
    folder = tmp_path / 'kept'
    before = read(build(tiny_coco), folder)
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[int(at * len(content)) if isinstance(at, float) else at] ^= 0xFF
    file.write_bytes(content)
    after = read(build(tiny_coco), folder)
    assert after.fingerprint == before.fingerprint and after.by_key == before.by_key
    file.write_bytes(file.read_bytes()[:-200])
    read(build(tiny_coco), folder)
    assert len(passes) == 3
    read(build(tiny_coco), folder)
    assert len(passes) == 3  # it is sound again
    np.savez(file, paths=np.asarray([b'a']), sizes=np.asarray([1]))  # of nobody knows what
    assert read(build(tiny_coco), folder).fingerprint == before.fingerprint
    assert len(passes) == 4
    read(build(tiny_coco), folder)
    assert list(folder.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_to_is_named(tiny_coco, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(MmacsError, match='cannot write .*file/.*npz'):
        read(build(tiny_coco), tmp_path / 'file')


# -------------------------------------------------------------------- processes
def process(rank, folder):
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    infos = random_boxes(50, 0)
    images = DistinctImages(RepeatDataset(Listed(infos, serialize_data=True), 2), [])
    if rank:  # it asks nobody but the main process
        images.infos = None
    expected = slow(images.bases[0], np.arange(50))
    for _ in range(2):
        check(TrainingData.read(images, folder / 'kept' if rank == 0 else folder / 'elsewhere'), expected)
    fewer = DistinctImages(Listed(infos[: 50 - rank]), [])
    with pytest.raises(MmacsError, match='process 1 has 49 training images, and the main process 50'):
        TrainingData.read(fewer)
    bad = DistinctImages(Listed(classes(-1)), [])
    with pytest.raises(MmacsError, match='has the class -1'):
        _ = TrainingData.read(bad).labels
    contents = image_contents_of(files(folder / 'visible', 5), LOAD, kept=folder / 'contents')
    (folder / f'{rank}.txt').write_text(repr(contents))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_main_process_reads_and_tells_the_other(tmp_path):
    for number in range(5):
        write(tmp_path / 'visible' / f'{number}.bmp', number)
    spawn(process, (tmp_path,), nprocs=2)
    contents = image_contents_of(files(tmp_path / 'visible', 5), LOAD)
    assert [(tmp_path / f'{rank}.txt').read_text() for rank in range(2)] == [repr(contents)] * 2
    assert len(list((tmp_path / 'kept').iterdir())) == 1 and not (tmp_path / 'elsewhere').exists()
