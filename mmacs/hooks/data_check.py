"""What the model, the data sets and the metrics of a run have to agree on, compared before its first step."""

import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from mmacs.adapters.heads import class_counts
from mmacs.datasets.class_names import listed, require_present, require_same
from mmacs.datasets.distinct_images import locate
from mmacs.datasets.loading import has_stock_classes, largest_label, say
from mmacs.datasets.reading import count_other_sizes
from mmacs.hooks.run import require_whole_evaluation, unwrapped
from mmacs.utils.errors import MmacsError


class DataCheck(Hook):
    """Compares the classes of data sets, heads and metrics before a run starts; counts images of another size.

    :func:`mmacs.cli.runs.build_runner` adds it to each run, and :class:`mmacs.QuantizationHook` does what it does
    under other commands.
    """

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self._told: Dict[str, int] = {}

    def before_run(self, runner: Runner) -> None:
        """Compare; by now all data sets and metrics of the run are built."""
        check_run(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Compare the classes that a checkpoint was trained on with those that it is tested on.

        A run that trains may start from weights of other classes. MMEngine compares those of a resumed run.

        Raises:
            MmacsError: If they are the same in another order.
        """
        theirs = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes')
        if theirs is None or isinstance(theirs, str) or isinstance(runner._train_loop, BaseLoop):
            return
        for name, dataset, _ in _loaded(runner):
            ours = _classes(dataset)
            if ours is None or ours == list(theirs):
                continue
            if set(ours) == set(theirs):
                require_same(theirs, 'the data that the checkpoint was trained on', ours, name)
            runner.logger.warning(
                f'The checkpoint was trained on other classes ({listed(theirs)}) than those of {name} ({listed(ours)}).'
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how many training images had another size than their annotations say."""
        self._tell(runner, 'train')

    def after_train(self, runner: Runner) -> None:
        """Say it at the end of an iteration-based run."""
        self._tell(runner, 'train')

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Say it of validation images."""
        self._tell(runner, 'val')

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Say it of test images."""
        self._tell(runner, 'test')

    def _tell(self, runner: Runner, split: str) -> None:
        dataset = next((data for name, data, _ in _loaded(runner) if name == f'{split}_dataloader'), None)
        bases = _bases(dataset)
        count = torch.tensor([sum(map(count_other_sizes, bases))])
        all_reduce(count, op='max')  # of the process that met most
        if int(count) > self._told.get(split, 0):
            self._told[split] = int(count)
            runner.logger.warning(
                f'{int(count)} of {sum(map(len, bases))} images of {split}_dataloader had another size than their '
                f'annotations say.'
            )


def check_run(runner: Runner) -> None:
    """Compare the classes of all data sets, heads and metrics of a run, which is evaluated on all images.

    Args:
        runner (Runner): A run whose loops are built.

    Raises:
        MmacsError: If they differ in names, order or number, a metric has no annotations, or a coreset is evaluated on.
    """
    require_whole_evaluation(runner)
    first: Optional[Tuple[str, List[str]]] = None
    first_folders: Optional[Tuple[str, List[str]]] = None
    for name, dataset, loop in _loaded(runner):
        check_classes(unwrapped(runner), dataset, name)
        classes = _classes(dataset)
        if classes is not None:
            first = first or (name, classes)
            require_same(first[1], first[0], classes, name)
        folders = next((list(base.folder_to_idx) for base in _bases(dataset) if hasattr(base, 'folder_to_idx')), None)
        if folders is not None:
            first_folders = first_folders or (name, folders)
            require_same(first_folders[1], f'the folders of {first_folders[0]}', folders, f'the folders of {name}')
        for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
            _check_metric(metric, dataset, name)


def check_classes(model: nn.Module, dataset: Dataset, name: str) -> None:
    """Compare the number of classes of a model's heads with that of a data set, and the parts of that.

    Args:
        model (nn.Module): The model.
        dataset (Dataset): A data set, or a wrapper around one or several.
        name (str): What the config calls its loader, such as ``'train_dataloader'``.

    Raises:
        MmacsError: If they differ.
    """
    bases = _bases(dataset)
    known = [classes for classes in map(_classes, bases) if classes is not None]
    for number, classes in enumerate(known[1:], start=2):
        require_same(known[0], f'part 1 of {name}', classes, f'part {number}')
    if any(getattr(base, 'return_classes', False) for base in bases):  # the head takes its classes from their names
        return
    classes = _classes(dataset, 'thing_classes') or _classes(dataset)  # of panoptic data, heads count things
    for head, count in class_counts(model).items():
        if classes is not None and count != len(classes):
            raise MmacsError(
                f'model.{head} has num_classes={count}, and the data of {name} has {len(classes)} classes '
                f'({listed(classes)}): set num_classes={len(classes)}'
            )
        preprocessor = getattr(model, 'data_preprocessor', None)
        encoded = getattr(preprocessor, 'num_classes', None) if getattr(preprocessor, 'to_onehot', False) else None
        if encoded not in (None, count):
            raise MmacsError(
                f'data_preprocessor encodes labels of num_classes={encoded}, and model.{head} has num_classes={count}: '
                f'set data_preprocessor.num_classes={count}'
            )
        largest = max(map(largest_label, bases), default=-1)
        if largest >= count:
            raise MmacsError(
                f'model.{head} has num_classes={count}, and the data of {name} the label {largest}, counted from '
                f'0: set num_classes to {largest + 1} or more'
            )


def _loaded(runner: Runner) -> Iterator[Tuple[str, Dataset, BaseLoop]]:
    """Name, data set and loop of each data loader that is built."""
    for name in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{name}_loop')
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)  # loops of others may have several
        if isinstance(loop, BaseLoop) and dataset is not None:
            yield f'{name}_dataloader', dataset, loop


def _bases(dataset: Optional[Dataset]) -> List[Any]:
    """The innermost data sets; none where a wrapper is unknown."""
    try:
        return [] if dataset is None else locate(dataset)[0]
    except MmacsError:
        return []


def _classes(dataset: Dataset, key: str = 'classes') -> Optional[List[str]]:
    """Names of the classes of a data set or wrapper, None where it has none."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get(key)
    return None if classes is None else list(classes)


def _check_metric(metric: Any, dataset: Dataset, name: str) -> None:
    """Compare a COCO metric's file with the data set that it judges."""
    coco = getattr(metric, '_coco_api', None)
    classes = _classes(dataset)
    if classes is None or type(coco).__name__ != 'COCO':  # others than objects are numbered in other ways
        return
    owner = f'the ann_file of {name.split("_")[0]}_evaluator'
    bases = _bases(dataset)
    stock = any(map(has_stock_classes, bases))
    if not stock:
        present = [category['name'] for category in coco.dataset['categories']]
        require_present(classes, name, present, owner)
        require_same(classes, name, [one for one in present if one in classes], owner)
    if getattr(metric, 'format_only', False):
        return
    if 'annotations' not in coco.dataset:
        raise MmacsError(f'{owner} has no "annotations" to evaluate with: format_only=True writes the detections alone')
    own = {category['id'] for category in coco.dataset['categories'] if stock or category['name'] in classes}
    if not any(one['category_id'] in own for one in coco.dataset['annotations']):
        say(f'{owner} has no object of the classes of {name}: there is nothing to evaluate.')
    unmasked = next((one for one in coco.dataset['annotations'] if not one.get('segmentation')), None)
    if 'segm' in getattr(metric, 'metrics', ()) and unmasked is not None:
        raise MmacsError(
            f'{owner} has no segmentation of annotation {unmasked["id"]} of image {unmasked["image_id"]}, which the '
            f'metric segm needs'
        )
    file, theirs = getattr(coco, 'annotation_file', None), bases[0].ann_file if len(bases) == 1 else None
    remote = getattr(metric, 'backend_args', None)  # what is read is a copy in a temporary file
    if file and theirs and not remote and os.path.realpath(file) != os.path.realpath(theirs):
        say(f'{owner} is {file}, and {name} reads {theirs}: detections are compared with the objects of the first.')
    ids = [bases[0].get_data_info(0).get('img_id')] if bases and len(bases[0]) else []
    if not set(ids) <= set(coco.imgs):
        raise MmacsError(f'{owner} does not list the image {ids[0]!r} of {name}: give both the same file')
