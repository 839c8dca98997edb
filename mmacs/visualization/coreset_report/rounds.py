"""What a run left of its selection rounds, and what is kept of them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Tuple
from zipfile import BadZipFile

import numpy as np
from mmengine.config import Config
from scipy.stats import spearmanr

from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.contents import Contents

_FACTS = ('beta', 'seconds', 'digest')
_REQUIRED = ('epoch', 'iteration', *_FACTS, 'indices', 'positions', 'importance')

Record = Dict[str, np.ndarray]


def read_config(work_dir: Path) -> Config:
    """Returns the config that MMEngine wrote into a work dir, the newest if there are several.

    Raises:
        MmacsError: If there is none.
    """
    configs = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise MmacsError(
            f"{work_dir} holds no config (<name>.py), which a run writes as it starts: is it the run's own?"
        )
    return Config.fromfile(configs[-1])


def round_files(work_dir: Path) -> List[Path]:
    """Returns the files of a run's selection rounds in order.

    Raises:
        MmacsError: If there is none.
    """
    found = sorted((work_dir / 'coreset').glob('round_*.npz'), key=lambda path: int(path.stem.split('_')[1]))
    if not work_dir.is_dir():
        raise MmacsError(f'there is no folder {work_dir}: name the work dir of a run')
    if not found:
        raise MmacsError(
            f'{work_dir / "coreset"} holds no round_*.npz: a run with mmacs.CoresetHook in its config writes them'
        )
    return found


def read_round(path: Path, num_indices: int, num_images: int) -> Record:
    """Read one selection round.

    Args:
        path (Path): A ``round_<n>.npz``.
        num_indices (int): Length of the data set.
        num_images (int): Number of distinct images in it, M.

    Returns:
        Dict[str, np.ndarray]: The arrays of the file, with ``chosen`` (bool, shape (M,)) in addition, and without
        the images' ids, which older files hold, see :func:`read_image_ids`.

    Raises:
        MmacsError: If it is damaged, lacks something, or is about other data.
    """
    try:
        with np.load(path) as arrays:
            absent = [key for key in _REQUIRED if key not in arrays]
            record = {key: arrays[key] for key in arrays if key != 'image_ids'}
    except (BadZipFile, ValueError, EOFError) as error:
        raise MmacsError(f'{path} is damaged: {error}') from error
    if absent:
        raise MmacsError(f'{path} has no {" and no ".join(absent)}: it is not from this version of mmacs.CoresetHook')
    found = len(record['positions']), len(record['importance'])
    if found != (num_indices, num_images):
        raise MmacsError(
            f'the data set has changed: {found[1]} images ({found[0]} with repeats) when {path.name} was written, '
            f'{num_images} ({num_indices}) now; name the data of that run with --data-root'
        )
    record['chosen'] = np.zeros(num_images, dtype=bool)
    record['chosen'][record['positions'][record['indices']]] = True
    return record


def read_image_ids(path: Path, num_images: int) -> np.ndarray:
    """Returns the ids of the images of a run, from ``images.npz``, or from the round's own file, which had them once.

    Args:
        path (Path): A ``round_<n>.npz``.
        num_images (int): Number of distinct images in the data set, M.

    Returns:
        np.ndarray: shape (M,).

    Raises:
        MmacsError: If they are not there or damaged, or are those of other data.
    """
    for file in (path, path.with_name('images.npz')):
        try:
            with np.load(file) as arrays:
                found = arrays.get('image_ids')
        except FileNotFoundError as error:
            raise MmacsError(f'{file} is missing: a run writes it with its first round') from error
        except (BadZipFile, ValueError, EOFError) as error:
            raise MmacsError(f'{file} is damaged: {error}') from error
        if found is not None and len(found) == num_images:
            return found
    raise MmacsError(f'{file} is not about the {num_images} images of {path.name}')


def read_metric(work_dir: Path) -> Tuple[str, Dict[int, float]]:
    """Returns the first metric of a run's validation.

    Of a run that a later one in the same folder goes back behind, only what came before is kept.

    Returns:
        Tuple[str, Dict[int, float]]: Its name, and its value by epoch (or iteration); ``('', {})`` without any.
    """
    name, values = '', {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        found = {}
        for line in map(json.loads, path.read_text().splitlines()):
            # Only MMEngine's lines about validation have times but no loss.
            if 'loss' in line or 'data_time' not in line:
                continue
            metrics = [key for key in line if key not in ('data_time', 'time', 'step')]
            name = name or next(iter(metrics), '')
            if name in line:
                found[line['step']] = line[name]
        first = min(found, default=np.inf)
        values = {**{step: value for step, value in values.items() if step < first}, **found}
    return name, values


def read_seconds(work_dir: Path) -> Dict[str, float]:
    """Seconds of ``training`` and ``selection`` of a finished run; empty for one that has not finished."""
    path = work_dir / 'coreset' / 'summary.json'
    if not path.exists():
        return {}
    summary = json.loads(path.read_text())
    return {key: summary[f'{key}_seconds'] for key in ('training', 'selection')}


def columns(record: Record) -> Dict[str, np.ndarray]:
    """Returns a round's scores by name, ``importance`` last; float, shape (M,) each."""
    scores = {key[len('score_') :]: record[key] for key in record if key.startswith('score_')}
    return {**scores, 'importance': record['importance']}


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the images in both sets over images in either; bool masks of the same shape, one of them not empty."""
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


@dataclass
class History:
    """What is kept of all rounds, so that only one round's arrays are in memory at a time.

    Attributes:
        rounds (List[dict]): Numbers of each round: ``at`` (epoch or iteration), ``beta``, ``images``, ``new``,
            ``churn`` (1 - Jaccard index with the round before), ``overlap`` (share chosen in the round before),
            ``noisy`` (share of wrongly labelled images), ``seconds``, ``digest``; None where there is none.
        spearman (Dict[str, List[float]]): By column: rank correlation with the number of objects, per round.
        times (np.ndarray): int64, shape (M,): number of rounds that chose each image.
        newest (np.ndarray): int64, shape (M,): number of the newest round that chose each image, -1 if none did.
    """

    times: np.ndarray
    newest: np.ndarray
    rounds: List[Dict[str, Any]] = field(default_factory=list)
    spearman: Dict[str, List[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record], contents: Contents, unit: str = 'epoch') -> 'History':
        """Go through the rounds in order; ``unit`` is ``'epoch'`` or ``'iteration'``, what the run counts in."""
        num_images = len(contents.counts)
        history = cls(np.zeros(num_images, dtype=np.int64), np.full(num_images, -1))
        before = None
        for number, record in enumerate(records):
            chosen = record['chosen']
            facts = {key: record[key].item() for key in _FACTS}
            facts.update(at=int(record[unit]), images=len(record['indices']), new=None, churn=None, overlap=None)
            if before is not None:
                facts['new'] = np.count_nonzero(chosen & ~before)
                facts['churn'] = 1 - jaccard(chosen, before)
                facts['overlap'] = 1 - facts['new'] / np.count_nonzero(chosen)
            facts['noisy'] = record['noisy'][chosen].mean() if 'noisy' in record else None
            history.rounds.append(facts)
            history.times += chosen
            history.newest[chosen] = number
            if contents.detection:
                for name, values in columns(record).items():
                    varies = np.ptp(values) > 0 and np.ptp(contents.counts) > 0  # else there is no correlation
                    found = spearmanr(values, contents.counts).statistic if varies else np.nan
                    history.spearman.setdefault(name, []).append(found)
            before = chosen
        return history


def cut(record: Record) -> float:
    """Returns the importance of the last image that a plain top-k of the same number of images would take."""
    return np.sort(record['importance'])[-np.count_nonzero(record['chosen'])]
