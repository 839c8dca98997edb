import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.fileio import BaseStorageBackend, register_backend
from mmengine.registry import TRANSFORMS

from mmacs.coreset import image_contents as module
from mmacs.coreset.data import TrainingData
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError
from tests.test_datasets.test_distinct_images import Listed

LOAD, STORED = dict(type='LoadImageFromFile'), {}


class Stored(BaseStorageBackend):
    """Files that lie in no folder."""

    def get(self, filepath):
        return STORED.get(str(filepath))

    def get_text(self, filepath):
        raise NotImplementedError


@TRANSFORMS.register_module()
class KeepInputs:
    """Gives the image, and the level that everything of another brightness is set to."""

    gain = 1

    def __call__(self, results):
        return {'inputs': torch.from_numpy(results['img'] * self.gain)}


@TRANSFORMS.register_module()
class LoadOtherFile(LoadImageFromFile):
    """Reads another file than the one that is named."""

    def transform(self, results):
        return super().transform({**results, 'img_path': results['img_path'].replace('visible', 'infrared')})


def picture(level, size=(6, 8)):
    return np.full((*size, 3), level, np.uint8)


def write(path, level):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode('.bmp', picture(level))[1].tobytes())


@pytest.fixture
def folder(tmp_path):
    for number in range(40):
        write(tmp_path / 'visible' / f'{number}.bmp', number)
    return tmp_path / 'visible'


@pytest.fixture
def reads(monkeypatch):
    """Files that were hashed; times of files are relied on however young they are."""
    found = []

    def hash_file(path, backend_of, original=module._hash_file):
        found.append(Path(path).name)
        return original(path, backend_of)

    monkeypatch.setattr(module, '_hash_file', hash_file)
    monkeypatch.setattr(module, '_SETTLED', -60.0)
    return found


def files(folder, count=40):
    return [dict(img_path=str(folder / f'{number}.bmp'), gt_label=0) for number in range(count)]


def contents(infos, *load, kept=None):
    images = DistinctImages(Listed(infos), [*load, dict(type='KeepInputs')])
    return TrainingData.read(images, kept, with_contents=True).contents


def test_other_pixels_under_the_same_names_sizes_and_times_are_other_contents(folder, tmp_path, reads):
    before = contents(files(folder), LOAD, kept=tmp_path)
    assert len(reads) == 40 and contents(files(folder), LOAD) == before
    times = os.stat(folder / '13.bmp')
    write(folder / '13.bmp', 200)  # in place; none of the images that are sent through the pipeline
    os.utime(folder / '13.bmp', ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(folder / '13.bmp').st_size == times.st_size
    reads.clear()
    after = contents(files(folder), LOAD, kept=tmp_path)
    assert reads == ['13.bmp'] and after.stored != before.stored
    write(folder / '13.bmp', 13)
    assert contents(files(folder), LOAD, kept=tmp_path) == before
    os.rename(folder / '14.bmp', folder / 'a')
    os.rename(folder / '15.bmp', folder / '14.bmp')
    os.rename(folder / 'a', folder / '15.bmp')
    assert contents(files(folder), LOAD, kept=tmp_path).stored != before.stored


def test_files_are_read_once_and_moved_ones_are_the_same(folder, tmp_path, reads):
    before = contents(files(folder), LOAD, kept=tmp_path)
    reads.clear()
    assert contents(files(folder), LOAD, kept=tmp_path) == before and reads == []
    (folder / '3.bmp').touch()
    assert contents(files(folder), LOAD, kept=tmp_path) == before and reads == ['3.bmp']
    reads.clear()
    (kept,) = tmp_path.glob('*.contents.npz')
    kept.write_bytes(kept.read_bytes()[:-100])
    assert contents(files(folder), LOAD, kept=tmp_path) == before and len(reads) == 40
    np.savez(kept, states=np.zeros((2, 4), np.int64), hashes=np.zeros((40, 16), np.uint8))  # of another version
    reads.clear()
    assert contents(files(folder), LOAD, kept=tmp_path) == before and len(reads) == 40
    folder.rename(tmp_path / 'moved')
    assert contents(files(tmp_path / 'moved'), LOAD) == before


def test_files_that_have_just_changed_are_read_again(folder, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(module, '_SETTLED', 60.0)
    before = contents(files(folder), LOAD, kept=tmp_path)
    reads.clear()
    assert contents(files(folder), LOAD, kept=tmp_path) == before and len(reads) == 40


def test_images_in_other_stores_are_read_by_what_reads_them(folder, tmp_path, reads):
    register_backend('stored', Stored, force=True)
    loads = [
        dict(type='LoadImageFromFile', backend_args=dict(backend='stored')),
        dict(type='LoadImageFromFile', backend_args=None),
    ]
    infos = files(folder, 3)
    for number, info in enumerate(infos):
        STORED[info['img_path']] = (folder / f'{number}.bmp').read_bytes()
    before = contents(infos, loads[0], kept=tmp_path)
    assert contents(infos, loads[1], kept=tmp_path) == before  # the same bytes, from local files, which are kept
    reads.clear()
    STORED[infos[1]['img_path']] = (folder / '7.bmp').read_bytes()
    assert contents(infos, loads[0], kept=tmp_path).stored != before.stored and len(reads) == 3
    assert contents(infos, loads[1], kept=tmp_path) == before
    images = DistinctImages(Listed(infos), [loads[0], dict(type='KeepInputs')])
    del STORED[infos[2]['img_path']]
    with pytest.raises(MmacsError, match=r'cannot read image .*/2\.bmp: it is not there'):
        TrainingData.read(images, with_contents=True)


@pytest.mark.parametrize('serialize_data', [False, True])
def test_arrays_of_the_data_set_are_its_contents(tmp_path, serialize_data):
    def of(level, dtype=np.uint8, **more):
        infos = [dict(img=picture(7).astype(dtype), gt_label=0, **more), dict(img=picture(level), gt_label=0)]
        infos.append(infos[0])
        images = DistinctImages(Listed(infos, serialize_data), [dict(type='KeepInputs')])
        return TrainingData.read(images, tmp_path, with_contents=True).contents

    found = [of(1), of(2), of(1, np.int8), of(1, text='a dog'), of(1, text='a cat'), of(1, boxes=np.ones((1, 4)))]
    assert len({one.stored for one in found}) == len(found)
    assert of(1) == found[0]


def test_what_makes_images_in_its_own_way_is_asked_for_all_of_them(folder, tmp_path, capsys):
    for number in range(40):
        write(tmp_path / 'infrared' / f'{number}.bmp', 100 + number)
    load = dict(type='LoadOtherFile')
    before = contents(files(folder), load)
    assert 'in a way of their own, by LoadOtherFile: all 40 are loaded in each start' in capsys.readouterr().out
    assert contents(files(folder), load) == before
    write(tmp_path / 'infrared' / '13.bmp', 0)
    assert contents(files(folder), load).seen != before.seen


def test_the_pipeline_is_told_by_what_it_makes_of_some_images(folder, monkeypatch):
    before = contents(files(folder), LOAD)
    grey = contents(files(folder), dict(type='LoadImageFromFile', color_type='unchanged'), dict(type='Resize', scale=4))
    monkeypatch.setattr(KeepInputs, 'gain', 2)
    doubled = contents(files(folder), LOAD)
    assert before.stored == grey.stored == doubled.stored
    assert len({before.seen, grey.seen, doubled.seen}) == 3


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / '20.bmp').unlink()
    with pytest.raises(MmacsError, match=r'cannot read image .*/20\.bmp: No such file'):
        contents(files(folder), LOAD)
