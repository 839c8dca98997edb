"""Measures what a run needs to know its training data: the check of annotations and the pass over them, second start.

Annotations in COCO's format, with polygons, are generated and read by MMDetection's CocoDataset, whose own time and
memory don't count, nor does parsing the file, which MMDetection does with the same module. With ``--contents`` it
measures what a run with a teacher does beside, knowing files by their contents: files of COCO's mean size are made, and
read from the disk, from memory, and at a second start, when only their times are asked for.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from mmacs import cli

CLASSES = tuple(f'class {i}' for i in range(1, 81))
OBJECTS365 = 1_742_289  # images, which the time is predicted for


class Measured(NamedTuple):
    """Of one start."""

    seconds: float  # the check with it
    megabytes: float  # peak of the process above what it held before, in the pass
    check: float = 0.0  # seconds


def generate(path: Path, num_images: int, num_boxes: int) -> None:
    """Write annotations with boxes and polygons of 24 points in random images, 1 % of them crowds."""
    rng = np.random.default_rng(0)
    images = [dict(id=i, file_name=f'{i:012d}.jpg', height=480, width=640) for i in range(1, num_images + 1)]
    image_ids = np.sort(rng.integers(1, num_images + 1, num_boxes)).tolist()
    boxes = (
        np.concatenate([rng.random((num_boxes, 2)) * 400, 10 + rng.random((num_boxes, 2)) * 60], 1).round(2).tolist()
    )
    labels, crowds = rng.integers(1, 81, num_boxes).tolist(), (rng.random(num_boxes) < 0.01).astype(int).tolist()
    annotations = [
        dict(
            id=i,
            image_id=image_id,
            category_id=label,
            bbox=box,
            area=box[2] * box[3],
            iscrowd=crowd,
            segmentation=[polygon],
        )
        for i, (image_id, label, box, crowd, polygon) in enumerate(
            zip(image_ids, labels, boxes, crowds, _polygons(boxes)), start=1
        )
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, start=1)]
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def _polygons(boxes: List[List[float]]) -> Iterator[List[float]]:
    """Ellipses in the boxes: x, y of 24 points each."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = 0.5 + 0.5 * np.stack([np.cos(angles), np.sin(angles)], 1)
    for x, y, width, height in boxes:
        yield (circle * (width, height) + (x, y)).round(2).ravel().tolist()


def check_seconds(path: Path) -> float:
    """Seconds of the check of an annotation file that is parsed."""
    from mmacs.datasets.coco_file import complete

    content = json.loads(path.read_text())
    begun = time.perf_counter()
    complete(path, content)
    return time.perf_counter() - begun


def build(folder: Path, num_images: int, num_boxes: int, with_files: bool) -> Tuple[Any, float]:
    """Generate a data set, with or without image files; returns it with the seconds of the check."""
    from mmdet.datasets import CocoDataset

    generate(folder / 'annotations.json', num_images, num_boxes)
    images = folder / 'images'
    images.mkdir()
    for number in range(1, num_images + 1 if with_files else 1):
        (images / f'{number:012d}.jpg').write_bytes(b' ')
    ann_file = str(folder / 'annotations.json')
    checked = check_seconds(folder / 'annotations.json')
    data = CocoDataset(
        ann_file=ann_file, data_prefix=dict(img=str(images)), metainfo=dict(classes=CLASSES), pipeline=[]
    )
    return data, checked


def resident(key: str) -> float:
    """Megabytes that Linux reports of this process: ``'VmRSS'`` now, ``'VmHWM'`` at most."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1000


def start(dataset: Any, cache_dir: Path) -> Measured:
    """Read the training data as a run does."""
    from mmacs.coreset.data import TrainingData
    from mmacs.datasets.distinct_images import DistinctImages

    Path('/proc/self/clear_refs').write_text('5')  # the peak begins anew
    before, begun = resident('VmRSS'), time.perf_counter()
    data = TrainingData.read(DistinctImages(dataset, []), cache_dir)
    seconds = time.perf_counter() - begun
    assert len(data) == len(dataset)
    return Measured(seconds, resident('VmHWM') - before)


def measure(num_images: int, num_boxes: int, with_files: bool) -> Dict[str, Measured]:
    """A first and a second start on generated data."""
    with tempfile.TemporaryDirectory() as folder:
        # in a process of its own, so that what it leaves free isn't taken for what reading doesn't need
        with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
            dataset, checked = pool.submit(build, Path(folder), num_images, num_boxes, with_files).result()
        found = {name: start(dataset, Path(folder) / 'cache') for name in ('first start', 'second start')}
        return {name: one._replace(seconds=one.seconds + checked, check=checked) for name, one in found.items()}


def measure_contents(num_files: int, kilobytes: int) -> Dict[str, float]:
    """Seconds to know files by their contents."""
    from mmdet.datasets import CocoDataset

    from mmacs.coreset import image_contents
    from mmacs.coreset.annotations import read_annotations
    from mmacs.datasets.distinct_images import DistinctImages

    def read() -> float:
        begun = time.perf_counter()
        image_contents.file_hashes(arrays, images.pipeline.transforms[0], folder / 'cache')
        return time.perf_counter() - begun

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        generate(folder / 'annotations.json', num_files, 7 * num_files)
        (folder / 'images').mkdir()
        for number in range(1, num_files + 1):
            with (folder / 'images' / f'{number:012d}.jpg').open('wb') as file:
                file.write(rng.bytes(1000 * kilobytes))
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # out of memory again
        time.sleep(image_contents._SETTLED)  # younger files would be read again at the second start
        dataset = CocoDataset(
            ann_file=str(folder / 'annotations.json'),
            data_prefix=dict(img=str(folder / 'images')),
            metainfo=dict(classes=CLASSES),
            pipeline=[],
        )
        images = DistinctImages(dataset, [dict(type='LoadImageFromFile')])
        arrays = read_annotations(images)
        seconds = {'first start, files on disk': read()}
        for file in (folder / 'cache').glob('*.contents.npz'):
            file.unlink()
        seconds['first start, files in memory'] = read()
        seconds['second start'] = read()
    return seconds


def main() -> None:
    """Measure two sizes and print both, and what their slope predicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=118_287, help='images of the larger data set')
    parser.add_argument('--boxes', type=int, default=860_001, help='boxes in them')
    parser.add_argument('--contents', type=int, metavar='FILES', help='measure knowing so many files by their contents')
    parser.add_argument('--kilobytes', type=int, default=163, help="size of each of these; default: COCO's mean")
    parser.add_argument('--with-files', action='store_true', help='make image files of one byte, whose sizes are read')
    args = parser.parse_args()
    if args.contents:
        for name, seconds in measure_contents(args.contents, args.kilobytes).items():
            rate = args.contents / seconds
            read = f', {rate * args.kilobytes / 1000:,.0f} MB/s' if 'first' in name else ''
            print(
                f'{args.contents:,} files of {args.kilobytes} kB, {name}: {seconds:.2f} s, {rate:,.0f} files/s{read}; '
                f'{args.images:,} files: {args.images / rate:.0f} s'
            )
        return
    found = {}
    for share in (4, 1):
        images, boxes = args.images // share, args.boxes // share
        found[images] = measure(images, boxes, args.with_files)
        for name, (seconds, megabytes, check) in found[images].items():
            took = f'{seconds:.2f} s ({check:.2f} s of it the check)'
            print(f'{images:,} images, {boxes:,} boxes, {name}: {took}, {megabytes:.0f} MB')
    (few, small), (many, large) = found.items()
    for name in small:
        slope = (large[name].seconds - small[name].seconds) / (many - few)
        predicted = large[name].seconds + slope * (OBJECTS365 - many)
        print(f'{OBJECTS365:,} images, {name}: {predicted:.0f} s predicted from {slope * 1e6:.1f} us per image')


if __name__ == '__main__':
    cli.run(main)
