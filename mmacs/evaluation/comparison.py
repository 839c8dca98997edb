"""From the rows of a comparison, a run each, to what its table says: means over seeds and differences to a baseline."""

from dataclasses import dataclass
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import numpy as np

from mmacs.evaluation.paired import PairedDifference, paired_difference

FULL, BASELINE = 'full', 'rs2'  # all images; repeated random, which a method has to beat


@dataclass(frozen=True)
class Row:
    """One run of a comparison.

    Attributes:
        grid (str): Name of the comparison.
        stage (str): ``'fp'`` (full precision), ``'ptq'`` (calibrated alone) or ``'qat'`` (trained).
        recipe (str): Name of the quantization recipe, empty in full precision.
        method (str): How images were chosen, empty where nothing is trained.
        fraction (float, optional): Share of the images in an epoch, None where nothing is trained.
        as_long_as (str): Method for whose seconds this one was trained, empty for the config's epochs.
        seed (int): Of the run.
        epochs (int): Epochs of training.
        images (int): Images of all training steps together.
        metric (str): Name of the metric that counts, of the final epoch.
        value (float): Its value.
        metrics (Dict[str, float]): All metrics.
        training_seconds (float): Without selection.
        selection_seconds (float): Of scoring and choosing.
        coresets (str): Digest of all coresets, empty where none was chosen.
        version (str): Of mmacs.
        machine (str): Processor or GPU.
        threads (int): Of the run on the processor.
        date (str): ISO.
        settings (str): Hash of all that the run depends on.
        tuned (bool): Whether something was tuned on this run, so that it proves nothing.
    """

    grid: str
    stage: str
    recipe: str
    method: str
    fraction: Optional[float]
    as_long_as: str
    seed: int
    epochs: int
    images: int
    metric: str
    value: float
    metrics: Dict[str, float]
    training_seconds: float
    selection_seconds: float
    coresets: str
    version: str
    machine: str
    threads: int
    date: str
    settings: str
    tuned: bool = False

    @property
    def seconds(self) -> float:
        """Seconds of training and selection."""
        return self.training_seconds + self.selection_seconds

    @property
    def images_in_its_time(self) -> float:
        """Images that the run could have trained on in its seconds, had selection taken none of them."""
        return self.images * self.seconds / self.training_seconds

    @property
    def key(self) -> 'Key':
        """What rows that differ in the seed alone have in common."""
        return Key(self.stage, self.recipe, self.method, self.fraction, self.as_long_as, self.tuned)


class Key(NamedTuple):
    """Which runs make up one line of the table, see :class:`Row`."""

    stage: str
    recipe: str
    method: str
    fraction: Optional[float]
    as_long_as: str = ''
    tuned: bool = False

    @property
    def label(self) -> str:
        """The method in words."""
        return f'{self.method}, as long as {self.as_long_as}' if self.as_long_as else self.method


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1) over seeds; the latter is None for one seed."""

    mean: float
    std: Optional[float]


@dataclass(frozen=True)
class Record:
    """One line of the table: runs that differ in the seed alone.

    Attributes:
        key (Key): What they have in common.
        metric (str): Name of the metric that counts.
        seeds (List[int]): Their seeds.
        epochs (float): Mean, as all that follow.
        images (float): Images of all training steps of a run.
        metrics (Dict[str, Spread]): All metrics.
        training_seconds (float): Without selection.
        selection_seconds (float): Of scoring and choosing.
        of_full (Tuple, optional): Mean metric (None where that of full data is 0) and mean seconds over those of full
            data, same recipe and seeds; None where there are none.
        equal_images (PairedDifference, optional): To the baseline at the same fraction, recipe and epochs.
        equal_time (PairedDifference, optional): To the baseline that was trained as long as this method.
    """

    key: Key
    metric: str
    seeds: List[int]
    epochs: float
    images: float
    metrics: Dict[str, Spread]
    training_seconds: float
    selection_seconds: float
    of_full: Optional[Tuple[Optional[float], float]] = None
    equal_images: Optional[PairedDifference] = None
    equal_time: Optional[PairedDifference] = None

    @property
    def value(self) -> Spread:
        """The metric that counts."""
        return self.metrics.get(self.metric, Spread(0.0, None))

    @property
    def seconds(self) -> float:
        """Seconds of training and selection."""
        return self.training_seconds + self.selection_seconds


def summarise(rows: Iterable[Row]) -> List[Record]:
    """Returns one record per line of the table, in the order in which rows first name them.

    Rows that something was tuned on are lines of their own, and no difference is taken from them.

    Args:
        rows (Iterable[Row]): No two of the same key and seed.
    """
    groups: Dict[Key, Dict[int, Row]] = {}
    for row in rows:
        groups.setdefault(row.key, {})[row.seed] = row
    missing = _missing_values([row for runs in groups.values() for row in runs.values()])
    return [_record(key, groups, missing) for key in groups]


def _record(key: Key, groups: Dict[Key, Dict[int, Row]], missing: Dict[str, float]) -> Record:
    runs = groups[key]
    differences: Dict[str, Optional[PairedDifference]] = {}
    if key.method not in ('', FULL, BASELINE) and not key.tuned and not key.as_long_as:
        for name, other in (
            ('equal_images', key._replace(method=BASELINE)),
            ('equal_time', key._replace(method=BASELINE, as_long_as=key.method)),
        ):
            values, theirs = ({seed: run.value for seed, run in of.items()} for of in (runs, groups.get(other, {})))
            differences[name] = paired_difference(values, theirs)
    rows = list(runs.values())
    return Record(
        key,
        next((row.metric for row in rows if row.metric), ''),
        list(runs),
        _mean(row.epochs for row in rows),
        _mean(row.images for row in rows),
        {name: _spread([row.metrics.get(name, value) for row in rows]) for name, value in missing.items()},
        _mean(row.training_seconds for row in rows),
        _mean(row.selection_seconds for row in rows),
        _relative(runs, groups.get(Key(key.stage, key.recipe, FULL, 1.0, tuned=key.tuned), {})),
        **differences,
    )


def _missing_values(rows: List[Row]) -> Dict[str, float]:
    """All metrics, with what stands for each where nothing at all is detected, of which MMDetection gives none.

    It is 0, or COCO's -1 where there is nothing to detect, such as no objects of a size.
    """
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    return {name: -1.0 if any(row.metrics.get(name) == -1 for row in rows) else 0.0 for name in names}


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _spread(values: List[float]) -> Spread:
    return Spread(_mean(values), float(np.std(values, ddof=1)) if len(values) > 1 else None)


def _relative(runs: Dict[int, Row], full: Dict[int, Row]) -> Optional[Tuple[Optional[float], float]]:
    common = [seed for seed in runs if seed in full]
    if not common:
        return None
    value, seconds, full_value, full_seconds = (
        _mean(getattr(of[seed], name) for seed in common) for of in (runs, full) for name in ('value', 'seconds')
    )
    return value / full_value if full_value else None, seconds / full_seconds
