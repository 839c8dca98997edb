"""COCO annotation files: read, checked, and completed where that is safe. Nothing but JSON and arrays; no framework."""

import gc
import json
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence

import numpy as np

from mmacs.datasets.text_files import not_utf8
from mmacs.utils.errors import MmacsError

NO_SIZE = -1  # width and height of an image whose record has no valid ones

_FARTHEST = 1e7  # pixels; no coordinate lies beyond
_SLACK = 1.0  # pixels by which a box may reach beyond its image, as rounding makes it

Record = Dict[str, Any]


class CocoFile(NamedTuple):
    """What a file holds.

    Attributes:
        content (dict): ``images``, ``categories``, ``annotations`` (unless the file has none) and whatever else is
            in it. What was missing is filled in.
        remarks (List[str]): What was filled in, and what of it cannot be trained on.
    """

    content: Dict[str, Any]
    remarks: List[str]


def read_coco(path: os.PathLike) -> CocoFile:
    """Read a COCO annotation file of objects.

    Filled in: ``iscrowd`` (0), ``area`` (of the box), ``bbox`` (around the segmentation), ids of annotations where
    they are missing, repeat, or are below 1, with which pycocotools counts an object as missed. Ids such as 3.0 are
    read as 3. A record without a valid width and height gets :data:`NO_SIZE`.

    Args:
        path (os.PathLike): The file. It is not changed.

    Returns:
        CocoFile: Its content and remarks about it.

    Raises:
        MmacsError: If it is anything else than such a file. The message names the file, the image and the annotation.
    """
    content = _parse(Path(path))
    return CocoFile(content, complete(Path(path), content))


def complete(path: Path, content: Dict[str, Any]) -> List[str]:
    """Check what was parsed of a file, and fill in what is missing, in place.

    Args:
        path (Path): The file, for messages.
        content (dict): What it holds.

    Returns:
        List[str]: As :attr:`CocoFile.remarks`.

    Raises:
        MmacsError: As :func:`read_coco`.
    """
    return _Check(path, content).run()


def _parse(path: Path) -> Dict[str, Any]:
    def refuse(why: str, cause: Exception) -> NoReturn:
        raise MmacsError(f'{path} is not a COCO annotation file: {why}') from cause

    try:
        with _no_collection():
            content = json.loads(path.read_bytes())
    except OSError as error:
        raise MmacsError(f'cannot read {path}: {error.strerror}') from error
    except UnicodeDecodeError as error:
        refuse(not_utf8(error), error)
    except json.JSONDecodeError as error:
        if path.stat().st_size == 0:
            refuse('it is empty', error)
        refuse(f'it is cut off or not JSON ({error.msg} in line {error.lineno}, column {error.colno})', error)
    except (RecursionError, ValueError) as error:  # nested too deep; a number of thousands of digits
        refuse(f'it cannot be read ({error})', error)
    if not isinstance(content, dict):
        raise MmacsError(f'{path} is not a COCO annotation file: it is not a JSON object')
    return content


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of small objects are made here, and all stay: looking for garbage would take as long as reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Check:
    """Goes through a file's content and completes it in place."""

    def __init__(self, path: Path, content: Dict[str, Any]) -> None:
        self.path, self.content = path, content
        self.remarks: List[str] = []

    def run(self) -> List[str]:
        for key in ('images', 'categories'):
            if key not in self.content:
                raise MmacsError(f'{self.path} is not a COCO annotation file: it has no "{key}"')
        self.images, self.categories = self._list('images'), self._list('categories')
        annotated = 'annotations' in self.content
        self.annotations = self._list('annotations') if annotated else []
        self._make_ids_whole()
        self._check_images()
        self._check_categories()
        if annotated:
            self._check_annotations()
        return self.remarks

    def _list(self, key: str) -> List[Record]:
        found = self.content[key]
        if not isinstance(found, list):
            raise MmacsError(f'{self.path} is not a COCO annotation file: its "{key}" is no list')
        wrong = next((place for place, one in enumerate(found) if type(one) is not dict), None)
        if wrong is not None:
            raise MmacsError(f'{self.path}: number {wrong} of "{key}" is no object but {_short(found[wrong])}')
        return found

    def _refuse(self, place: int, why: str) -> NoReturn:
        raise MmacsError(f'{self.path}: {self._name(place)} {why}')

    def _name(self, place: int) -> str:
        """Names an annotation, such as ``annotation 7 of image 3 ('003.png')``."""
        annotation = self.annotations[place]
        number = f'annotation {_short(annotation["id"])}' if 'id' in annotation else f'number {place} of "annotations"'
        image_id = annotation.get('image_id')
        file = next((image['file_name'] for image in self.images if image['id'] == image_id), None)
        return f'{number} of image {_short(image_id)}' + ('' if file is None else f' ({_short(file)})')

    def _remark(self, places: Sequence[int], what: str) -> None:
        if len(places):
            first = self._name(int(places[0]))
            self.remarks.append(f'{len(places)} of {len(self.annotations)} annotations {what} (first: {first})')

    def _make_ids_whole(self) -> None:
        """Read ids such as 3.0, which tables of numbers write, as 3."""
        count = 0
        for record in (*self.images, *self.categories, *self.annotations):
            for key in ('id', 'image_id', 'category_id'):
                value = record.get(key)
                if type(value) is float and value.is_integer():
                    record[key] = int(value)
                    count += 1
        if count:
            self.remarks.append(f'{count} ids are written with a decimal point: read as whole numbers')

    # ---------------------------------------------------------------- images and categories
    def _check_images(self) -> None:
        ids = [image.get('id') for image in self.images]
        for image in self.images:
            if not isinstance(image.get('file_name'), str) or not image['file_name']:
                raise MmacsError(f'{self.path}: image {_short(image.get("id"))} has no "file_name"')
        for image, one in zip(self.images, ids):
            if type(one) not in (int, str):
                raise MmacsError(f'{self.path}: image {_short(image["file_name"])} has {_short(one)} as its "id"')
        if len({type(one) for one in ids}) > 1:
            raise MmacsError(f'{self.path}: some ids of images are numbers and some are strings: take one kind')
        self.by_id = {one: place for place, one in enumerate(ids)}
        if len(self.by_id) < len(ids):
            shared = Counter(ids).most_common(1)[0][0]
            files = [image['file_name'] for image in self.images if image['id'] == shared]
            raise MmacsError(
                f'{self.path}: {len(files)} images share the id {_short(shared)}, {_short(files[0])} and '
                f'{_short(files[1])} among them: give each its own, in "images" and in "annotations"'
            )
        unsized = []
        for image in self.images:
            width, height = image.get('width'), image.get('height')
            if not (_is_number(width) and _is_number(height) and width > 0 and height > 0):
                unsized.append((image['file_name'], width, height))
                image['width'] = image['height'] = NO_SIZE
        if unsized:
            name, width, height = unsized[0]
            self.remarks.append(
                f'{len(unsized)} of {len(self.images)} images have no valid width and height, which are read from '
                f'their files (first: {_short(name)}, width {_short(width)}, height {_short(height)})'
            )

    def _check_categories(self) -> None:
        for place, category in enumerate(self.categories):
            if type(category.get('id')) not in (int, str):
                raise MmacsError(
                    f'{self.path}: number {place} of "categories" has {_short(category.get("id"))} as "id"'
                )
            if not isinstance(category.get('name'), str):
                raise MmacsError(f'{self.path}: category {_short(category["id"])} has no "name"')
        names: Dict[Any, str] = {}
        for category in self.categories:
            before = names.setdefault(category['id'], category['name'])
            if before != category['name']:
                raise MmacsError(
                    f'{self.path}: the categories {_short(before)} and {_short(category["name"])} share the id '
                    f'{_short(category["id"])}: give each its own, in "categories" and in "annotations"'
                )
        if len(names) < len(self.categories) or len(set(names.values())) < len(names):
            self._drop_repeated()

    def _drop_repeated(self) -> None:
        """Leave out categories that are there twice, and those that share a name with the one that has objects."""
        used = {one for one in (annotation.get('category_id') for annotation in self.annotations) if _is_id(one)}
        kept: Dict[str, Record] = {}
        for category in self.categories:
            other = kept.setdefault(category['name'], category)
            if other['id'] in used and category['id'] in used and other['id'] != category['id']:
                raise MmacsError(
                    f'{self.path}: the categories {_short(other["id"])} and {_short(category["id"])} are both called '
                    f'{_short(category["name"])}: make one of them'
                )
            if category['id'] in used:
                kept[category['name']] = category
        count = len(self.categories) - len(kept)
        self.remarks.append(f'{count} of {len(self.categories)} categories repeat the name of another: left out')
        self.categories[:] = [one for one in self.categories if kept.get(one['name']) is one]

    # ---------------------------------------------------------------- annotations
    def _check_annotations(self) -> None:
        self._require_known('image_id', self.by_id, 'image')
        self._require_known('category_id', {category['id'] for category in self.categories}, 'category')
        self._nest_polygons()
        self._fill_boxes()
        boxes = self._boxes()
        self._fill_areas(boxes)
        self._fill_crowds()
        self._remark_outside(boxes)
        self._count_ids()

    def _require_known(self, key: str, known: Any, kind: str) -> None:
        for place, annotation in enumerate(self.annotations):
            one = annotation.get(key)
            if not _is_id(one):
                self._refuse(place, f'has {_short(one)} as its "{key}"')
            if one not in known:
                other = next((k for k in (str(one), _as_int(one)) if k != one and k in known), None)
                hint = f'write {other!r}, as there' if other is not None else 'list it, or take the annotation out'
                self._refuse(place, f'has the {key} {_short(one)}, and the file lists no such {kind}: {hint}')

    def _nest_polygons(self) -> None:
        flat = []
        for place, annotation in enumerate(self.annotations):
            shape = annotation.get('segmentation')
            if shape and type(shape) is list and _is_number(shape[0]):
                annotation['segmentation'] = [shape]
                flat.append(place)
        self._remark(flat, 'have a polygon that is no list of polygons: read as one')

    def _fill_boxes(self) -> None:
        missing = [place for place, annotation in enumerate(self.annotations) if not annotation.get('bbox')]
        for place in missing:
            annotation = self.annotations[place]
            box = _box_around(annotation.get('segmentation'))
            if box is None:
                self._refuse(place, 'has neither a "bbox" nor a valid "segmentation"')
            annotation['bbox'] = box
        self._remark(missing, 'have no "bbox": it is drawn around their segmentation')

    def _boxes(self) -> np.ndarray:
        """Boxes x, y, width, height of all annotations, float64, shape (N, 4)."""
        listed = [annotation['bbox'] for annotation in self.annotations]
        try:
            boxes = np.asarray(listed or np.zeros((0, 4)))
        except ValueError:  # of different lengths
            boxes = np.asarray([])
        if boxes.dtype.kind not in 'iuf' or boxes.shape != (len(listed), 4):
            valid = np.asarray([_is_box(box) for box in listed], dtype=bool)
        else:
            valid = (np.abs(boxes) <= _FARTHEST).all(1)  # NaN is not
        wrong = np.flatnonzero(~valid)
        if len(wrong):
            self._refuse(int(wrong[0]), f'has the box {_short(listed[wrong[0]])}, which is no x, y, width, height')
        boxes = boxes.astype(np.float64)
        wrong = np.flatnonzero((boxes[:, 2:] < 0).any(1))
        if len(wrong):
            self._refuse(int(wrong[0]), f'has the box {_short(listed[wrong[0]])} with a negative width or height')
        return boxes

    def _fill_areas(self, boxes: np.ndarray) -> None:
        given = [annotation.get('area') for annotation in self.annotations]
        valid = np.asarray([_is_number(area) and area > 0 for area in given], dtype=bool)
        sides = boxes[:, 2:]
        for place in np.flatnonzero(~valid).tolist():
            self.annotations[place]['area'] = float(sides[place].prod())
        self._remark(np.flatnonzero(~valid & (sides > 0).all(1)), 'have no "area" above 0: that of their box is taken')
        self._remark(
            np.flatnonzero((sides < 1).any(1)), 'have a box that is narrower than a pixel: MMDetection leaves them out'
        )

    def _fill_crowds(self) -> None:
        missing = []
        for place, annotation in enumerate(self.annotations):
            crowd = annotation.get('iscrowd')
            if crowd is None:
                annotation['iscrowd'] = 0
                missing.append(place)
            elif isinstance(crowd, (str, list, dict)) or crowd not in (0, 1):
                self._refuse(place, f'has {_short(crowd)} as "iscrowd", which is 0 or 1')
        self._remark(missing, 'have no "iscrowd": read as 0')
        if self.annotations and all(annotation['iscrowd'] for annotation in self.annotations):
            self.remarks.append('all annotations are crowds ("iscrowd" is 1), which MMDetection does not train on')
        ignored = [place for place, annotation in enumerate(self.annotations) if annotation.get('ignore')]
        self._remark(ignored, 'have "ignore": MMDetection leaves them out of training, and evaluation counts them')

    def _remark_outside(self, boxes: np.ndarray) -> None:
        sizes = np.asarray([(image['width'], image['height']) for image in self.images], dtype=np.float64)
        if not len(boxes):
            return
        limits = sizes[[self.by_id[annotation['image_id']] for annotation in self.annotations]]
        sized, start, end = limits[:, 0] > 0, boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        outside = sized & ((end <= 0) | (start >= limits)).any(1)
        self._remark(np.flatnonzero(outside), 'lie outside their image: MMDetection leaves them out')
        beyond = sized & ~outside & ((start < -_SLACK) | (end > limits + _SLACK)).any(1)
        hint = ' (are they x1, y1, x2, y2 in place of x, y, width, height?)' if beyond.sum() > len(boxes) / 5 else ''
        self._remark(np.flatnonzero(beyond), f'reach beyond their image{hint}')

    def _count_ids(self) -> None:
        ids = [annotation.get('id') for annotation in self.annotations]
        first = ''
        if all(type(one) is int and one > 0 for one in ids):
            if len(set(ids)) == len(ids):
                return
            repeated, count = Counter(ids).most_common(1)[0]
            first = f' ({repeated} stands {count} times)'
        for number, annotation in enumerate(self.annotations, start=1):
            annotation['id'] = number
        self.remarks.append(
            f'ids of annotations are missing, repeat{first} or are no whole numbers above 0: all are counted '
            'anew, from 1'
        )


# -------------------------------------------------------------------- values
def _is_number(value: Any) -> bool:
    """Returns whether a value is a finite number, True and False left out."""
    return type(value) in (int, float) and -1e300 < value < 1e300


def _is_id(value: Any) -> bool:
    return type(value) in (int, str)


def _as_int(value: Any) -> Optional[int]:
    return int(value) if isinstance(value, str) and value.isdecimal() else None


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_number(one) and abs(one) <= _FARTHEST for one in box)


def _box_around(segmentation: Any) -> Optional[List[float]]:
    """The box x, y, width, height around polygons or a run-length encoded mask; None if that is neither."""
    if isinstance(segmentation, dict):
        return _box_of_runs(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    numbers = [one for polygon in segmentation if isinstance(polygon, list) for one in polygon]
    odd = any(not isinstance(polygon, list) or len(polygon) % 2 or len(polygon) < 6 for polygon in segmentation)
    if odd or not all(_is_number(one) and abs(one) <= _FARTHEST for one in numbers):
        return None
    xs, ys = numbers[0::2], numbers[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _box_of_runs(encoded: Record) -> Optional[List[float]]:
    from pycocotools import mask  # here, since files without such masks are read without it

    try:
        height, width = encoded['size']
        if isinstance(encoded['counts'], list):
            encoded = mask.frPyObjects(encoded, height, width)
        return mask.toBbox(encoded).tolist()
    except (KeyError, TypeError, ValueError):
        return None


def _short(value: Any) -> str:
    """A value of the file in a message: not longer than that bears, and on one line."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
