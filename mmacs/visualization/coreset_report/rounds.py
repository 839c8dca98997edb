"""What a run left of its selection rounds, and what is kept of them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np
from scipy.stats import rankdata, spearmanr

from mmacs.coreset import round_record
from mmacs.utils.checks import is_number, is_whole
from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.contents import Contents

_FACTS = ('beta', 'seconds', 'digest')
_WHOLE = ('epoch', 'iteration', 'positions', 'scored_at', 'trained_at')
_REMEDY = 'delete it to have the report without that round'
_REQUIRED = ('epoch', 'iteration', *_FACTS, 'indices', 'positions', 'importance')

Record = Dict[str, np.ndarray]


def round_files(work_dir: Path) -> List[Path]:
    """Returns the files of a run's selection rounds in order.

    Raises:
        MmacsError: If there is none.
    """
    if not work_dir.is_dir():
        raise MmacsError(f'there is no folder {work_dir}: name the work dir of a run')
    found = list(round_record.round_files(work_dir / 'coreset').values())
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
    record = {key: array for key, array in _read_arrays(path).items() if key != 'image_ids'}
    absent = [key for key in _REQUIRED if key not in record]
    if absent:
        raise MmacsError(f'{path} has no {" and no ".join(absent)}: it is not from this version of mmacs.CoresetHook')
    found = record['positions'].size, record['importance'].size
    if found != (num_indices, num_images):
        raise MmacsError(
            f'the data set has changed: {found[1]} images ({found[0]} with repeats) when {path.name} was written, '
            f'{num_images} ({num_indices}) now; name the data of that run with --data-root'
        )
    fault = _fault(record, num_indices, num_images)
    if fault is not None:
        raise MmacsError(f'{path} is damaged: {fault}; {_REMEDY}')
    record['chosen'] = np.zeros(num_images, dtype=bool)
    record['chosen'][record['positions'][record['indices']]] = True
    return record


def _read_arrays(path: Path) -> Record:
    """Returns the arrays of a file.

    Raises:
        MmacsError: If it is missing, can't be read or is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:  # it verifies checksums
            return dict(arrays)
    except FileNotFoundError as error:
        raise MmacsError(f'{path} is missing: a run writes it with its first round') from error
    except Exception as error:  # whatever a damaged file leads to
        remedy = f'; {_REMEDY}' if path.name.startswith('round_') else ''
        raise MmacsError(f'{path} is damaged: {" ".join(str(error).split())[:200]}{remedy}') from error


def _fault(record: Record, num_indices: int, num_images: int) -> Optional[str]:
    """What no round can be; None if there is nothing."""
    numbers, masks = ('epoch', 'iteration', 'beta', 'seconds'), ('noisy', 'trimmed', 'candidates')
    per_image = ('importance', 'suspicion', 'scored_at', 'trained_at', *masks)
    for name, array in record.items():
        if not re.fullmatch(r'[\w.-]{1,100}', name):  # charts are files of these names
            return f'it has the name {name!r:.100}'
        image = name.startswith('score_') or name in per_image
        shape = (num_images,) if image else (num_indices,) if name == 'positions' else ()
        kinds = 'U' if name == 'digest' else 'b' if name in masks else 'iu' if name in _WHOLE else 'fiu'
        known = image or name in (*numbers, 'digest', 'positions')
        if known and (array.shape != shape or array.dtype.kind not in kinds):
            return f'{name} is an array of {array.dtype} with shape {array.shape}'
    importance = record['importance'][record.get('candidates', slice(None))]  # others have none
    if not all(np.isfinite(values).all() for values in (importance, *(record[name] for name in numbers))):
        return 'it holds NaN or Inf'
    for name, below in (('positions', num_images), ('indices', num_indices)):
        array = record[name]
        if array.ndim != 1 or array.dtype.kind not in 'iu' or not len(array):
            return f'{name} is an array of {array.dtype} with shape {array.shape}'
        if array.min() < 0 or array.max() >= below:
            return f'{name} are from {array.min()} to {array.max()}, not from 0 to {below - 1}'
    return None


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
        found = _read_arrays(file).get('image_ids')
        if found is not None and found.shape == (num_images,):
            return found
    raise MmacsError(f'{file} is not about the {num_images} images of {path.name}')


def read_metric(work_dir: Path) -> Tuple[str, Dict[int, float]]:
    """Returns the first metric of a run's validation.

    Of a run that a later one in the same folder goes back behind, only what came before is kept.

    Returns:
        Tuple[str, Dict[int, float]]: Its name, and its value by epoch (or iteration); ``('', {})`` without any.

    Raises:
        MmacsError: If a file of scalars is damaged; that the last line of a killed run ends early is nothing unusual.
    """
    name, values = '', {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        found = {}
        for line in _scalars(path):
            # Only MMEngine's lines about validation have times but no loss.
            if 'loss' in line or 'data_time' not in line:
                continue
            metrics = [key for key in line if key not in ('data_time', 'time', 'step')]
            name = name or next(iter(metrics), '')
            if name in line:
                if type(line[name]) not in (int, float) or not is_whole(line.get('step')):  # NaN is a value too
                    raise MmacsError(
                        f'{path} is damaged: {name} is {line[name]!r:.60} at step {line.get("step")!r:.60}; delete it '
                        'to have the report without it'
                    )
                found[line['step']] = line[name]
        first = min(found, default=np.inf)
        values = {**{step: value for step, value in values.items() if step < first}, **found}
    return name, values


def _scalars(path: Path) -> Iterator[Dict[str, Any]]:
    """The lines of a file of scalars, but for a last one that is cut off."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise MmacsError(f'{path} cannot be read ({error}): delete it to have the report without it') from error
    for number, line in enumerate(lines, start=1):
        try:
            scalars = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and not line.endswith('\n'):
                return
            raise MmacsError(
                f'{path} is damaged in line {number}: {error}; delete it to have the report without it'
            ) from error
        if not isinstance(scalars, dict):
            raise MmacsError(f'{path} is damaged in line {number}: delete it to have the report without it')
        yield scalars


def read_seconds(work_dir: Path) -> Dict[str, float]:
    """Seconds of ``training`` and ``selection`` of a finished run; empty for one that has not finished.

    Raises:
        MmacsError: If the summary is damaged.
    """
    path = work_dir / 'coreset' / 'summary.json'
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text())
        seconds = {key: summary[f'{key}_seconds'] for key in ('training', 'selection')}
        wrong = next((value for value in seconds.values() if not is_number(value) or value < 0), None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise MmacsError(f'{path} is damaged ({error!r:.100}): delete it to have the report without it') from error
    if wrong is not None:
        raise MmacsError(f'{path} is damaged (it has {wrong!r:.60} seconds): delete it to have the report without it')
    return seconds


def columns(record: Record) -> Dict[str, np.ndarray]:
    """Returns a round's scores by name, ``importance`` last; float, shape (M,) each, NaN where an image has none."""
    scores = {key[len('score_') :]: record[key] for key in record if key.startswith('score_')}
    return {**scores, 'importance': record['importance']}


def shares_below(values: np.ndarray) -> np.ndarray:
    """Returns of each value the share of all that are lower, NaN for NaN; float64, the same shape."""
    return (rankdata(values, 'min', nan_policy='omit') - 1) / max(1, np.count_nonzero(np.isfinite(values)))


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
                    known = np.isfinite(values)
                    values, counts = values[known], contents.counts[known]
                    varies = len(values) > 0 and np.ptp(values) > 0 and np.ptp(counts) > 0  # else no correlation
                    found = spearmanr(values, counts).statistic if varies else np.nan
                    history.spearman.setdefault(name, []).append(found)
            before = chosen
        return history


def cut(record: Record) -> float:
    """Returns the importance of the last image that a plain top-k of the same number of images would take."""
    importance = record['importance']
    return np.sort(importance[np.isfinite(importance)])[-np.count_nonzero(record['chosen'])]
