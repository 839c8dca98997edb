"""One data set as it loads its annotations: errors in one sentence, labels compared, what is dropped counted."""

import logging
import math
import os
from collections import Counter
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Sequence

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from mmacs.datasets.class_names import listed, require_names, require_present
from mmacs.datasets.image_files import is_local, read_size
from mmacs.datasets.text_files import not_utf8, require_no_mark
from mmacs.utils.errors import MmacsError, nearest
from mmacs.utils.progress import phase

_LIBRARIES = ('mmengine', 'mmdet', 'mmpretrain', 'mmacs')
_STEPS = ('COCOAPI', 'load_data_list', 'parse_data_info', '_parse_instance_info', 'filter_data')
_NO_CLASSES = ('__MACOSX', '__pycache__')  # folders; those with a dot in front besides
_LARGEST = 'mmacs_largest_label'  # attribute of a data set

Info = Dict[str, Any]

_said: set = set()


def say(sentence: str, level: int = logging.WARNING) -> None:
    """Log something once in a process: two data sets, or a data set and a metric, may read one file."""
    if sentence not in _said:
        _said.add(sentence)
        print_log(sentence, 'current', level)


def largest_label(dataset: BaseDataset) -> int:
    """Returns the largest label of a data set of whole images, -1 if it has none or is another kind."""
    return getattr(dataset, _LARGEST, -1)


def has_stock_classes(dataset: BaseDataset) -> bool:
    """Returns whether MMDetection itself names the classes of a data set with files in COCO's form.

    Such names needn't be those of the file: iSAID's begin with a background that the file has not.
    """
    owner = next(one for one in type(dataset).__mro__ if 'METAINFO' in vars(one))
    stock = owner.METAINFO.get('classes')
    return (
        _package(owner) == 'mmdet'
        and owner.__name__ != 'CocoDataset'
        and hasattr(owner, 'COCOAPI')
        and (stock is None or tuple(stock) == tuple(dataset.metainfo.get('classes') or ()))
    )


class Loading:
    """Stands in for the steps of a data set's loading, in this one instance, while it loads.

    Args:
        dataset (BaseDataset): A data set whose ``full_init`` runs in this context.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        self.dataset = dataset
        self.name = type(dataset).__name__
        prefix = dataset.data_prefix.get('img_path') if isinstance(dataset.data_prefix, dict) else None
        self.file = dataset.ann_file or prefix or dataset.data_root or self.name
        self.coco: Any = None  # the file, while it is open
        self.lacks_annotations = False
        self.unsized: List[str] = []
        self.objects: Counter = Counter()  # of XML files, by the name of their class

    @classmethod
    def watches(cls, dataset: BaseDataset) -> bool:
        """Returns whether a data set is loading in such a context."""
        return isinstance(getattr(dataset.load_data_list, '__self__', None), cls)

    def __enter__(self) -> 'Loading':
        classes = self.dataset.metainfo.get('classes')
        if isinstance(classes, str):
            require_names(classes, self.name)
        self._own: Dict[str, Callable] = {
            step: getattr(self.dataset, step) for step in _STEPS if hasattr(self.dataset, step)
        }
        for step in self._own:
            setattr(self.dataset, step, getattr(self, step))
        return self

    def __exit__(self, *error: Any) -> None:
        for step in self._own:
            delattr(self.dataset, step)

    # ---------------------------------------------------------------- steps, named as the data sets name them
    def COCOAPI(self, path: str) -> Any:  # noqa: N802
        """Reads a file in COCO's form; requires the classes among its categories."""
        self.coco = self._own['COCOAPI'](path)
        if self._compares_classes() and _package(self._owner('load_data_list')) == 'mmdet':
            self._require_classes()
        return self.coco

    def load_data_list(self) -> List[Info]:
        """Loads the annotations and checks what they give."""
        self._check_folders()
        if os.path.isfile(self.file):
            require_no_mark(self.file)
        with phase(f'reading {self.file}'), self._explained('load_data_list', self._where):
            infos = self._own['load_data_list']()
        if self.coco is not None:
            self._compare_labels()
            self.lacks_annotations = 'annotations' not in self.coco.dataset
            self.coco = None  # MMDetection has let go of it too
        elif self._is_known():
            self._check(infos)
            self._compare_objects()
        self._require_masks(infos)
        return infos

    def parse_data_info(self, raw: Any) -> Any:
        """Makes the record of an image, with the size of its file where the annotations have none."""
        place, record = self.file, None
        if isinstance(raw, dict):
            place, record = raw.get('xml_path', self.file), raw.get('raw_img_info')
        if isinstance(record, dict) and 'file_name' in record:
            self._fill_size(record, os.path.join(self.dataset.data_prefix.get('img', ''), record['file_name']))
        with self._explained('parse_data_info', lambda: place):
            info = self._own['parse_data_info'](raw)
        if isinstance(info, dict):
            self._fill_size(info, info.get('img_path'))
        return info

    def _parse_instance_info(self, raw: Any, *args: Any, **kwargs: Any) -> List[Info]:
        """Reads the objects of an XML file; counts them by class, since MMDetection skips those it doesn't know."""
        self.objects.update(one.findtext('name') for one in raw.findall('object'))
        return self._own['_parse_instance_info'](raw, *args, **kwargs)

    def filter_data(self) -> List[Info]:
        """Leaves out images as the config says; counts them by reason."""
        before = list(self.dataset.data_list)
        if not before:
            raise MmacsError(f'{self.file} has no images')
        kept = self._own['filter_data']()
        staying = set(map(id, kept))
        reasons = Counter(self._why_dropped(info) for info in before if id(info) not in staying)
        why = ', '.join(f'{count} {reason}' for reason, count in reasons.most_common())
        if not kept:
            hint = ': it has no "annotations"' if self.lacks_annotations else ''
            raise MmacsError(f'no image of {self.file} is left to train on{hint} ({why})')
        if len(kept) < len(before):
            level = logging.INFO if len(kept) > len(before) / 2 else logging.WARNING
            say(f'{self.name} trains on {len(kept)} of {len(before)} images of {self.file}: {why}.', level)
        if not self.dataset.test_mode and all(info.get('instances') == [] for info in kept):
            say(f'{self.file}: no image has an object.')
        return kept

    # ---------------------------------------------------------------- errors
    @contextmanager
    def _explained(self, step: str, where: Callable[[], str]) -> Iterator[None]:
        """An error of a library's step becomes one sentence; one's own classes keep their traceback."""
        what = f'cannot read the annotations of {self.name}'
        try:
            yield
        except MmacsError:
            raise
        except UnicodeDecodeError as error:
            raise MmacsError(f'{what} in {where()}: {not_utf8(error)}') from error
        except OSError as error:
            raise MmacsError(f'{what} in {error.filename or where()}: {error.strerror or error}') from error
        except Exception as error:
            if _package(self._owner(step)) not in _LIBRARIES:
                raise
            text = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise MmacsError(f'{what} in {where()}: {text}') from error

    def _is_known(self) -> bool:
        """Whether a library's class reads the annotations, perhaps for one of one's own."""
        owners = [one for one in type(self.dataset).__mro__ if 'load_data_list' in vars(one)]
        return any(_package(one) in _LIBRARIES for one in (owners[0], *owners[1:-1]))  # all derive from the last

    def _owner(self, step: str) -> type:
        """Returns the class that defines a step."""
        return next(one for one in type(self.dataset).__mro__ if step in vars(one))

    def _where(self) -> str:
        """Returns the file, with the line that is no path and label where lines are such."""
        if not getattr(self.dataset, 'with_label', False) or not os.path.isfile(self.file):
            return self.file
        with open(self.file, errors='replace') as file:
            for number, line in enumerate(file, start=1):
                parts = line.strip().rsplit(' ', 1)
                if len(parts) < 2 or not parts[1].lstrip('+-').isdecimal():
                    return f'{self.file}, line {number} ({line.strip()[:80]!r}), which is no path and label'
        return self.file

    # ---------------------------------------------------------------- labels
    def _compares_classes(self) -> bool:
        """Whether the names of classes are those of the file; in some of MMDetection's data sets they needn't be."""
        owner = self._owner('load_data_list')
        known = owner.__name__ == 'CocoDataset' or _package(owner) != 'mmdet'
        return known and self.dataset.metainfo.get('classes') is not None and not has_stock_classes(self.dataset)

    def _require_classes(self) -> None:
        classes = self.dataset.metainfo['classes']
        require_names(classes, self.name)
        present = [category['name'] for category in self.coco.dataset.get('categories', ())]
        require_present(classes, self.name, present, self.file)

    def _compare_labels(self) -> None:
        """Compares the classes with what MMDetection made of the categories: it numbers them as the file does."""
        labels = getattr(self.dataset, 'cat2label', None)
        classes = self.dataset.metainfo.get('classes')
        names = {category['id']: category['name'] for category in self.coco.dataset.get('categories', ())}
        if labels is None or classes is None or not labels.keys() <= names.keys():
            return
        if self._compares_classes() and len(set(labels.values())) < len(classes):  # one's own may join categories
            self._require_classes()
        order = tuple(names[one] for one in sorted(labels, key=labels.get))
        if self._compares_classes() and order != tuple(classes) and set(order) == set(classes):
            raise MmacsError(
                f'{self.file} lists the categories in another order than classes of {self.name}, and MMDetection '
                f'numbers them in the order of the file: write metainfo=dict(classes={order!r})'
            )
        found = Counter(one.get('category_id') for one in self.coco.dataset.get('annotations', ()))
        self._say_left_out(Counter({names[one]: found[one] for one in found if one in names and one not in labels}))

    def _compare_objects(self) -> None:
        """Compares the classes with the names of the objects in XML files."""
        classes = self.dataset.metainfo.get('classes') or ()
        others = Counter({name: count for name, count in self.objects.items() if name not in classes})
        unseen = [name for name in classes if name not in self.objects]
        if others and len(unseen) == len(classes):
            raise MmacsError(
                f'none of the classes of {self.name} ({listed(classes)}) has an object in the files of {self.file}, '
                f'which have {listed(others)}: set metainfo=dict(classes=...)'
            )
        for name in [] if self.dataset.test_mode else unseen:  # a small split may lack a class
            close = nearest(name, [one for one in others if one])
            if close:
                raise MmacsError(
                    f'the class {name!r} of {self.name} has no object in the files of {self.file}, did you mean '
                    f'{close!r}?'
                )
        self._say_left_out(others)

    def _say_left_out(self, objects: Counter) -> None:
        if objects:
            names = listed(repr(name) for name, _ in objects.most_common())
            say(
                f'{self.file}: {sum(objects.values())} objects are left out, of classes that {self.name} does not '
                f'name: {names}.'
            )

    def _check_folders(self) -> None:
        """Compares the classes with folders, where each is one class, in the order of their names."""
        dataset = self.dataset
        if dataset.ann_file or not hasattr(dataset, '_find_samples') or not getattr(dataset, 'with_label', False):
            return
        root = dataset.data_prefix['img_path']
        if not is_local(root) or not os.path.isdir(root):
            return
        folders = sorted(one.name for one in os.scandir(root) if one.is_dir())
        hidden = next((one for one in folders if one.startswith('.') or one in _NO_CLASSES), None)
        if hidden is not None:
            raise MmacsError(f'{os.path.join(root, hidden)} would be a class of {self.name}: remove that folder')
        classes = dataset.metainfo.get('classes')
        if classes is None:
            return
        if len(classes) != len(folders):
            raise MmacsError(
                f'{self.name} has {len(classes)} classes ({listed(classes)}), and {root} {len(folders)} folders '
                f'({listed(folders)})'
            )
        wrong = next((one for place, one in enumerate(classes) if one in folders and folders[place] != one), None)
        if wrong is not None:
            raise MmacsError(
                f'the class {wrong!r} of {self.name} is number {list(classes).index(wrong)}, and its folder in {root} '
                f'number {folders.index(wrong)} in alphabetical order, which MMPreTrain numbers them by: write classes '
                f'in that order'
            )

    # ---------------------------------------------------------------- records
    def _fill_size(self, record: Info, path: Any) -> None:
        if min(record.get('width', 1), record.get('height', 1)) <= 0 and is_local(path):
            record['width'], record['height'] = read_size(path)
            self.unsized.append(path)

    def _why_dropped(self, info: Info) -> str:
        least = (self.dataset.filter_cfg or {}).get('min_size', 0)
        if info.get('instances') == []:
            return 'have no object of these classes'
        if min(info.get('width', least), info.get('height', least)) < least:
            return f'are smaller than {least} pixels'
        return 'are left out by its filter'

    def _check(self, infos: Sequence[Info]) -> None:
        """Checks labels, boxes and sizes of annotations in other forms than COCO's."""
        classes = self.dataset.metainfo.get('classes')
        flat: List[str] = []
        largest = -1
        self._say_other_labels(infos)
        for info in infos:
            if info.get('gt_label') is not None:
                largest = max(largest, self._largest_of(info, classes))
            instances = info.get('instances')
            if isinstance(instances, list) and instances and 'bbox' in instances[0]:
                kept = [one for one in instances if self._has_extent(one, info)]
                if len(kept) < len(instances):
                    info['instances'] = kept
                    flat.append(str(info.get('xml_path') or info.get('img_path')))
        setattr(self.dataset, _LARGEST, largest)
        if flat:
            say(
                f'{self.file}: in {len(flat)} images boxes have no width or height, and are left out (first: '
                f'{flat[0]}).'
            )
        if self.unsized:
            say(
                f'{self.file}: {len(self.unsized)} of {len(infos)} images have no valid width and height, which are '
                f'read from their files (first: {self.unsized[0]}).'
            )

    def _say_other_labels(self, infos: Sequence[Info]) -> None:
        """Says which images are listed several times, with labels that differ."""
        labels: Dict[str, set] = {}
        for info in infos:
            if type(info.get('gt_label')) is int and info.get('img_path') is not None:
                labels.setdefault(str(info['img_path']), set()).add(info['gt_label'])
        torn = [path for path, found in labels.items() if len(found) > 1]
        if torn:
            found = ' and '.join(map(str, sorted(labels[torn[0]])[:2]))
            say(f'{self.file}: {len(torn)} images are listed with more than one label (first: {torn[0]}, {found}).')

    def _require_masks(self, infos: Sequence[Info]) -> None:
        if not any(getattr(one, 'with_mask', False) for one in getattr(self.dataset.pipeline, 'transforms', ())):
            return
        for info in infos:
            if 'segments_info' not in info and any(not one.get('mask') for one in info.get('instances', ())):
                raise MmacsError(
                    f'{self.file}: image {info.get("img_path")} has an object without a segmentation, which '
                    f'LoadAnnotations(with_mask=True) needs'
                )

    def _largest_of(self, info: Info, classes: Any) -> int:
        label = info['gt_label']
        labels = [label] if type(label) is int else np.ravel(label).tolist()
        for one in labels:
            if one < 0 or (classes is not None and one >= len(classes)):
                known = 'labels count from 0' if one < 0 else f'there are {len(classes)} classes, counted from 0'
                raise MmacsError(f'{self.file}: image {info.get("img_path")} has the label {one}, and {known}')
        return max(labels, default=-1)

    def _has_extent(self, instance: Info, info: Info) -> bool:
        x1, y1, x2, y2 = box = instance['bbox']
        if not all(map(math.isfinite, box)) or x2 < x1 or y2 < y1:
            place = info.get('xml_path') or info.get('img_path')
            raise MmacsError(f'{place} has the box {box}, which is no x1, y1, x2, y2 with x1 < x2 and y1 < y2')
        return x2 > x1 and y2 > y1


def _package(owner: type) -> str:
    return owner.__module__.split('.')[0]
