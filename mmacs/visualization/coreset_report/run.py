"""What a report knows of a run beside its rounds: from what the run wrote, or from a config that the user names."""

import errno
import os
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmacs.coreset.ground_truth import GroundTruth, read_ground_truth
from mmacs.datasets.data_paths import check_data, move_data_root
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.run_record import describe_run
from mmacs.utils.errors import MmacsError, printable
from mmacs.utils.json_file import read_object

_KINDS: Dict[str, Any] = {'name': str, 'unit': str, 'end': int, 'data_root': (str, type(None)), 'settings': dict}
_LONGEST_CONFIG = 200_000  # characters
_NO_PICTURE = 'the images lie in no files of their own: say --config CONFIG to see them, which executes that config'


class Run(NamedTuple):
    """A run whose coreset is reported.

    Attributes:
        about (dict): See :func:`mmacs.hooks.run_record.describe_run`.
        truth (GroundTruth): Its images.
        info (Callable[[int], dict]): Returns what the data set knows of an image, as MMEngine's ``get_data_info``.
        no_pictures (str): Why there are no pictures of the images, empty where there are.
        config (str): The text of its config, empty where there is none.
    """

    about: Dict[str, Any]
    truth: GroundTruth
    info: Callable[[int], Dict[str, Any]]
    no_pictures: str = ''
    config: str = ''


def told_by(run: Run, work_dir: Path) -> Run:
    """Returns a run of a config as its work dir tells of it: options may have changed what that config says."""
    path = work_dir / 'coreset' / 'run.json'
    if not path.exists():  # it is of an earlier version
        return run
    about = _read_about(path)
    return run._replace(about=about, config=_config_text(work_dir, about) or run.config)


def read_run(work_dir: Path, data_root: Optional[str]) -> Run:
    """Read what a run wrote of itself; nothing of its work dir is executed.

    Args:
        work_dir (Path): Of the run.
        data_root (str, optional): Folder of the data set; None is where the run had it.

    Raises:
        MmacsError: If it wrote nothing, as those of mmacs 0.1 did, or what it wrote is damaged.
    """
    folder = work_dir / 'coreset'
    try:
        about, truth = _read_about(folder / 'run.json'), read_ground_truth(folder / 'ground_truth.npz')
    except FileNotFoundError as error:
        raise MmacsError(
            f'{error.filename} is missing, which a run writes as it starts: for one of an earlier version say '
            f'--config CONFIG, its config, which is executed'
        ) from error
    old = None if about['data_root'] is None else about['data_root'].rstrip('/')
    if data_root is not None and old is None:
        raise MmacsError('the data of this run has no data_root to replace')

    def info(position: int) -> Dict[str, Any]:
        path = os.fsdecode(truth.paths[position].item())
        if data_root is not None and f'{path}/'.startswith(f'{old}/'):
            path = os.path.join(data_root, path[len(str(old)) :].lstrip('/'))
        if not os.path.isfile(path):  # and no URL
            raise MmacsError(f'cannot read image {path}: name the folder of the data with --data-root')
        return {'img_path': path, 'instances': truth.instances(position)}

    return Run(about, truth, info, '' if all(truth.paths.tolist()) else _NO_PICTURE, _config_text(work_dir, about))


def _config_text(work_dir: Path, about: Dict[str, Any]) -> str:
    """Returns the config that MMEngine wrote into the work dir, which is read as text alone."""
    path = work_dir / f'{Path(about["name"]).name}.py'
    try:
        return path.read_text(encoding='utf-8')[:_LONGEST_CONFIG]
    except (OSError, ValueError):
        return ''


def _read_about(path: Path) -> Dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    about = read_object(path, 'record of the run')
    for key, kind in _KINDS.items():
        if not isinstance(about.get(key), kind):
            raise MmacsError(f'{path} is damaged (its {key} is missing or of another type)')
    if about['unit'] not in ('epoch', 'iteration') or not 0 < about['end'] < 10**12:
        raise MmacsError(f'{path} is damaged (it has no end)')
    scores = about.get('scores', {})  # records of earlier versions have none
    if not isinstance(scores, dict):
        raise MmacsError(f'{path} is damaged (its scores are of another type)')
    for part, texts in (('settings', about['settings']), ('scores', scores)):
        about[part] = {str(key): printable(value, 500) for key, value in texts.items()}
    return about


def run_of_config(cfg: Config, data_root: Optional[str]) -> Run:
    """Build the training data of a config, which the user names and trusts.

    Args:
        cfg (Config): The run's config.
        data_root (str, optional): Folder of the data set; None is where the config says.

    Raises:
        MmacsError: If it is of no training run, or its data is missing.
    """
    if not all(isinstance(cfg.get(key), dict) for key in ('train_cfg', 'train_dataloader')):
        raise MmacsError(f'{cfg.filename} is no config of a training run: it has no train_cfg or no train_dataloader')
    if data_root is not None:
        move_data_root(cfg, data_root)
    check_data(cfg, ['train_dataloader'])
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    images = DistinctImages(dataset, [])
    truth = GroundTruth.of(images, (dataset.metainfo or {}).get('classes') or ())
    return Run(describe_run(cfg), truth, images.info, config=cfg.pretty_text)


def require_same_images(truth: GroundTruth, was: np.ndarray) -> None:
    """Require the images that a run had, by their ids; of paths by names, since folders may have moved.

    Raises:
        MmacsError: If an image is another one.
    """
    for before, now in zip(map(str, was.tolist()), map(str, truth.ids.tolist())):
        if Path(before).name != Path(now).name:
            raise MmacsError(
                f'the data set has changed: what was image {before} is now {now}; name the data of that run'
            )
