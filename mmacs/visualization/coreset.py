"""The report of a run's coreset, one HTML page: what it picked, why, and what that cost."""

import base64
import io
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from zipfile import BadZipFile

import cv2
import matplotlib
import mmcv
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from scipy.stats import binom, rankdata, spearmanr

from mmacs.coreset.view import ScoringView
from mmacs.data_paths import check_data, move_data_root
from mmacs.errors import MmacsError

_REQUIRED = ('epoch', 'iteration', 'indices', 'positions', 'image_ids', 'importance')
_SIZES = {'small': 0, 'medium': 32**2, 'large': 96**2}  # from this area on; COCO's limits
_ALL, _CHOSEN, _OTHER = '#8a94a0', '#e8772e', '#3f8fd2'  # these show on white and on black
_THEMES = {'light': ('#ffffff', '#2b2f36', '#d9dde2'), 'dark': ('#1b1f24', '#d5dae0', '#3a414a')}
_PALETTE = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps['tab10'].colors]
_PERCENT = FuncFormatter(lambda share, _: f'{100 * share:.3g}%')
_MAX_ROUNDS, _MAX_CLASSES, _PICTURES = 6, 30, 12  # what one page shows
_SIDE = 420  # pixels, the longer side of a picture

Record = Dict[str, np.ndarray]


# -------------------------------------------------------------------- what the run left
def read_config(work_dir: Path) -> Config:
    """The config that MMEngine wrote into a work dir, the newest if there are several.

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
    """The files of a run's selection rounds in order.

    Raises:
        MmacsError: If there is none.
    """
    found = sorted((work_dir / 'coreset').glob('round_*.npz'), key=lambda path: int(path.stem.split('_')[1]))
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
        the images' ids, which may be paths, the bulk of it.

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


def read_metric(work_dir: Path) -> Tuple[str, Dict[int, float]]:
    """The first metric of a run's validation.

    Returns:
        Tuple[str, Dict[int, float]]: Its name, and its value by epoch (or iteration); ``('', {})`` without any.
    """
    name, values = '', {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in map(json.loads, path.read_text().splitlines()):
            # Only MMEngine's lines about validation have times but no loss.
            if 'loss' in line or 'data_time' not in line:
                continue
            metrics = [key for key in line if key not in ('data_time', 'time', 'step')]
            name = name or next(iter(metrics), '')
            if name in line:
                values[line['step']] = line[name]
    return name, values


def read_seconds(work_dir: Path) -> Dict[str, float]:
    """Seconds of ``training`` and ``selection`` of a finished run; empty for one that has not finished."""
    path = work_dir / 'coreset' / 'summary.json'
    if not path.exists():
        return {}
    summary = json.loads(path.read_text())
    return {key: summary[f'{key}_seconds'] for key in ('training', 'selection')}


class Contents(NamedTuple):
    """What the annotations say, one entry per object, or per label of an image: K of them in M images.

    Attributes:
        detection (bool): Whether there are boxes.
        image (np.ndarray): int64, shape (K,): position of the image.
        label (np.ndarray): int64, shape (K,).
        area (np.ndarray): float64, shape (K,), of the box in square pixels of the file; 0 without boxes.
        names (List[str]): Names of the classes.
        counts (np.ndarray): int64, shape (M,): entries per image.
    """

    detection: bool
    image: np.ndarray
    label: np.ndarray
    area: np.ndarray
    names: List[str]
    counts: np.ndarray


def read_contents(view: ScoringView, classes: Sequence[str] = ()) -> Contents:
    """Collect the ground truth of all images; crowds and other ignored regions are left out.

    Args:
        view (ScoringView): The images.
        classes (Sequence[str]): Names of the classes; those that it lacks are named by their number.
    """
    images, labels, areas, detection = [], [], [], False
    for position in range(len(view)):
        info = view.info(position)
        if 'instances' in info:
            detection = True
            for one in info['instances']:
                if not one.get('ignore_flag'):
                    x1, y1, x2, y2 = one['bbox']
                    images.append(position)
                    labels.append(one['bbox_label'])
                    areas.append((x2 - x1) * (y2 - y1))
        else:
            for label in np.ravel(info.get('gt_label', ())).tolist():
                images.append(position)
                labels.append(label)
                areas.append(0.0)
    image, label = np.asarray(images, dtype=np.int64), np.asarray(labels, dtype=np.int64)
    names = [str(name) for name in classes]
    names += [str(number) for number in range(len(names), label.max(initial=-1) + 1)]
    return Contents(detection, image, label, np.asarray(areas), names, np.bincount(image, minlength=len(view)))


# -------------------------------------------------------------------- what it means
def columns(record: Record) -> Dict[str, np.ndarray]:
    """A round's scores by name, ``importance`` last; float, shape (M,) each."""
    scores = {key[len('score_') :]: record[key] for key in record if key.startswith('score_')}
    return {**scores, 'importance': record['importance']}


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Images in both sets over images in either; bool masks of the same shape, one of them not empty."""
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


@dataclass
class History:
    """What is kept of all rounds, so that only one round's arrays are in memory at a time.

    Attributes:
        rounds (List[dict]): Numbers of each round: ``at`` (epoch or iteration), ``beta``, ``images``, ``new``,
            ``churn`` (1 - Jaccard index with the round before), ``overlap`` (share chosen in the round before),
            ``noisy`` (share of wrongly labelled images), ``seconds``, ``digest``; None where unknown.
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
            facts = {key: record[key].item() if key in record else None for key in ('beta', 'seconds', 'digest')}
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
    """Importance of the last image that a plain top-k of the same number of images would take."""
    return np.sort(record['importance'])[-np.count_nonzero(record['chosen'])]


def class_shares(contents: Contents, chosen: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Share of each class in all images and in the chosen ones; float64, shape (number of classes,) each.

    Args:
        contents (Contents): The annotations.
        chosen (np.ndarray): bool, shape (M,).
    """
    everywhere = np.bincount(contents.label, minlength=len(contents.names))
    inside = np.bincount(contents.label[chosen[contents.image]], minlength=len(contents.names))
    return everywhere / max(1, everywhere.sum()), inside / max(1, inside.sum())


def most_shifted(everywhere: np.ndarray, inside: np.ndarray, count: int) -> np.ndarray:
    """The classes that a coreset over- and under-represents most.

    They are those of largest ``|q - p| / sqrt(p)``, the terms of Pearson's chi-squared statistic: a plain ratio would
    name rare classes alone.

    Args:
        everywhere (np.ndarray): p, share of each class in all images, shape (C,).
        inside (np.ndarray): q, share in the chosen images, shape (C,).
        count (int): How many classes.

    Returns:
        np.ndarray: int64, shape (min(count, C),), from the most over- to the most under-represented.
    """
    shift = (inside - everywhere) / np.sqrt(np.maximum(everywhere, 1e-12))
    kept = np.argsort(-np.abs(shift), kind='stable')[:count]
    return kept[np.argsort(-shift[kept], kind='stable')]


# -------------------------------------------------------------------- charts
class Chart(NamedTuple):
    """A chart: its file's stem, its heading and explanation on the page, and what draws it."""

    name: str
    title: str
    text: str
    draw: Callable[[Figure], None]
    height: float = 2.9  # inches; all are 5 wide


def _render(chart: Chart, theme: str) -> bytes:
    """A chart as PNG, ``'light'`` or ``'dark'``."""
    background, ink, lines = _THEMES[theme]
    style = {
        **{key: background for key in ('figure.facecolor', 'axes.facecolor', 'savefig.facecolor')},
        **{key: ink for key in ('text.color', 'axes.labelcolor', 'xtick.color', 'ytick.color')},
        **{'axes.edgecolor': lines, 'grid.color': lines, 'grid.linewidth': 0.6, 'axes.axisbelow': True},
        **{'axes.spines.top': False, 'axes.spines.right': False, 'font.size': 9, 'legend.frameon': False},
        'axes.prop_cycle': matplotlib.cycler(color=[_OTHER, *_PALETTE[2:]]),
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5, chart.height), layout='constrained')
        chart.draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=160)
    return buffer.getvalue()


def _cost_chart(history: History, seconds: Dict[str, float]) -> Optional[Chart]:
    rounds = [facts['seconds'] for facts in history.rounds]
    if None in rounds:
        rounds = [seconds['selection']] if seconds else []
    if not rounds:
        return None

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.barh(0, seconds.get('training', 0), color=_ALL, label='training')
        start = seconds.get('training', 0)
        for number, length in enumerate(rounds):
            # A gap between rounds shows how many there were.
            axis.barh(
                0,
                length,
                left=start,
                color=_CHOSEN,
                edgecolor=axis.get_facecolor(),
                lw=0.8,
                label='' if number else 'selection, round by round' if len(rounds) > 1 else 'selection',
            )
            start += length
        axis.set(yticks=[], xlabel='seconds', xlim=(0, start))
        axis.spines['left'].set_visible(False)
        figure.legend(loc='outside upper left', ncols=2)

    known = 'Training and selection' if seconds else 'Selection so far; training is known once the run has finished'
    return Chart('cost', 'Where the time went', f'{known}, on the same clock.', draw, 1.4)


def _score_chart(name: str, shown: Dict[int, Record]) -> Chart:
    """Distribution of one column: all images against the chosen ones, a panel per round."""

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (number, record) in zip(panels, shown.items()):
            values = columns(record)[name]
            finite = np.isfinite(values)
            edges = np.histogram_bin_edges(values[finite], bins=40)
            axis.hist(values[finite], edges, color=_ALL, label='all images')
            axis.hist(values[finite & record['chosen']], edges, color=_CHOSEN, label='chosen')
            if name == 'importance':
                axis.axvline(cut(record), color=_OTHER, ls='--', lw=1.2, label='cut of a plain top-k')
            axis.set_ylabel(f'round {number}', rotation=0, ha='right', va='center')
            axis.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        panels[-1].set_xlabel(name)
        figure.legend(*panels[0].get_legend_handles_labels(), loc='outside upper left', ncols=3)

    title = 'Importance' if name == 'importance' else f'Score {name}'
    text = 'All images and, in front of them, the chosen ones.'
    if name == 'importance':
        text += (
            ' Chosen images left of the cut were taken for another reason than importance: floors, strata or chance.'
        )
    return Chart(f'score_{name}' if name != 'importance' else name, title, text, draw, 1 + 0.75 * len(shown))


def _course_charts(history: History, metric: Tuple[str, Dict[int, float]], unit: str, end: int) -> Iterator[Chart]:
    """What changes over the run: beta, the metric, churn."""
    at = [facts['at'] for facts in history.rounds]

    def over_time(axis: Axes, label: str) -> None:
        for where in at:
            axis.axvline(where, color=_CHOSEN, lw=0.8, alpha=0.6)
        axis.set(xlabel=f'{unit}s trained', ylabel=label, xlim=(0, end))
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axis.grid(axis='y')

    betas = [facts['beta'] for facts in history.rounds]
    if None not in betas:

        def draw_beta(figure: Figure) -> None:
            axis = figure.subplots()
            axis.step([*at, end], [*betas, betas[-1]], where='post', color=_OTHER)
            axis.plot(at, betas, 'o', color=_CHOSEN)
            over_time(axis, 'beta')
            axis.set_ylim(-0.03, 1.03)

        yield Chart('beta', 'Beta', 'Each line is a round; its beta weighs the scores until the next.', draw_beta)
    name, values = metric
    if len(values) > 1:

        def draw_metric(figure: Figure) -> None:
            axis = figure.subplots()
            axis.plot(values.keys(), values.values(), 'o-', color=_OTHER, ms=4, clip_on=False)
            over_time(axis, name)

        yield Chart('metric', 'Validation', 'Each vertical line is a selection round.', draw_metric)
    if len(at) > 1:

        def draw_churn(figure: Figure) -> None:
            axis = figure.subplots()
            churn = [facts['churn'] for facts in history.rounds]
            axis.plot(at[1:], churn[1:], 'o-', color=_OTHER, ms=4)
            share = history.times.sum() / (len(at) * len(history.times))
            axis.axhline(1 - share / (2 - share), color=_ALL, ls='--', lw=1, label='if each round drew at random')
            over_time(axis, 'churn')
            axis.set_ylim(0, 1.03)
            figure.legend(loc='outside upper left')

        text = '1 - Jaccard index with the round before: 0 is the same coreset again, 1 an entirely new one.'
        yield Chart('churn', 'Churn', text, draw_churn)


def _usage_charts(history: History) -> Iterator[Chart]:
    """How often, and how long ago, images were chosen."""
    count, num_images = len(history.rounds), len(history.times)

    def draw_times(figure: Figure) -> None:
        axis = figure.subplots()
        axis.bar(range(count + 1), np.bincount(history.times, minlength=count + 1), color=_CHOSEN, label='images')
        by_chance = num_images * binom.pmf(range(count + 1), count, history.times.sum() / (count * num_images))
        axis.plot(range(count + 1), by_chance, 'o--', color=_OTHER, ms=4, lw=1, label='if each round drew at random')
        axis.set(xlabel='rounds that chose the image', ylabel='images')
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        figure.legend(loc='outside upper left', ncols=2)

    def draw_ages(figure: Figure) -> None:
        axis = figure.subplots()
        ages = np.bincount(count - 1 - history.newest, minlength=count + 1)
        axis.bar(range(count), ages[:-1], color=_CHOSEN, label='chosen')
        axis.bar(count, ages[-1], color=_ALL, label='never chosen')
        axis.set(xlabel='rounds since the image was chosen', ylabel='images')
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        figure.legend(loc='outside upper left', ncols=2)

    yield Chart('times', 'How often images were chosen', 'Over all rounds.', draw_times)
    yield Chart('ages', 'Age', 'Rounds since each image was last in the coreset, as of the last round.', draw_ages)


def _content_charts(contents: Contents, chosen: np.ndarray, history: History) -> Iterator[Chart]:
    """What is in the chosen images of the last round."""
    everywhere, inside = class_shares(contents, chosen)
    rows = most_shifted(everywhere, inside, _MAX_CLASSES)

    def draw_classes(figure: Figure) -> None:
        axis = figure.subplots()
        places = np.arange(len(rows))
        axis.barh(places - 0.2, everywhere[rows], 0.4, color=_ALL, label='all images')
        axis.barh(places + 0.2, inside[rows], 0.4, color=_CHOSEN, label='chosen')
        axis.set_yticks(places, [contents.names[row] for row in rows], fontsize=8)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.xaxis.set_major_formatter(_PERCENT)
        axis.set_xlabel('share of the objects' if contents.detection else 'share of the labels')
        axis.grid(axis='x')
        figure.legend(loc='outside upper left', ncols=2)

    text = 'Last round; from the most over-represented to the most under-represented class.'
    if len(rows) < len(contents.names):
        text += f' The {len(rows)} of {len(contents.names)} classes that shifted most, relative to their size.'
    yield Chart('classes', 'Classes', text, draw_classes, 1 + 0.2 * max(5, len(rows)))
    if not contents.detection:
        return

    def draw_objects(figure: Figure) -> None:
        axis = figure.subplots()
        width = 1 + int(contents.counts.max()) // 30
        edges = np.arange(0, contents.counts.max() + width + 1, width) - 0.5
        for counts, colour, label in (
            (contents.counts, _ALL, 'all images'),
            (contents.counts[chosen], _CHOSEN, 'chosen'),
        ):
            weights = np.full(len(counts), 1 / len(counts))
            axis.hist(counts, edges, weights=weights, color=colour, label=label, alpha=0.75)
            axis.axvline(counts.mean(), color=colour, ls='--', lw=1.2)
        axis.yaxis.set_major_formatter(_PERCENT)
        axis.set(xlabel='objects in the image (dashed: mean)', ylabel='share of the images')
        figure.legend(loc='outside upper left', ncols=2)

    def draw_sizes(figure: Figure) -> None:
        axis = figure.subplots()
        kinds = np.searchsorted([*_SIZES.values()][1:], contents.area, side='right')
        masks = (np.ones(len(kinds), dtype=bool), _ALL, 'all images'), (chosen[contents.image], _CHOSEN, 'chosen')
        for offset, (mask, colour, label) in zip((-0.2, 0.2), masks):
            shares = np.bincount(kinds[mask], minlength=len(_SIZES)) / max(1, np.count_nonzero(mask))
            axis.bar(np.arange(len(_SIZES)) + offset, shares, 0.4, color=colour, label=label)
        axis.set_xticks(range(len(_SIZES)), _SIZES)
        axis.yaxis.set_major_formatter(_PERCENT)
        axis.set_ylabel('share of the objects')
        axis.grid(axis='y')
        figure.legend(loc='outside upper left', ncols=2)

    def draw_spearman(figure: Figure) -> None:
        axis = figure.subplots()
        axis.axhspan(-0.1, 0.1, color=_ALL, alpha=0.25, lw=0)
        axis.axhline(0, color=_ALL, lw=0.8)
        for name, values in history.spearman.items():
            ink = {'color': matplotlib.rcParams['text.color'], 'lw': 2} if name == 'importance' else {'lw': 1.2}
            axis.plot(range(len(values)), values, 'o-', ms=4, label=name, **ink)
        axis.set(xlabel='round', ylabel='rank correlation', ylim=(-1.03, 1.03))
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axis.grid(axis='y')
        figure.legend(loc='outside upper left', ncols=4)

    text = (
        "Spearman's rank correlation of scores with the number of objects: within 0.1 of zero (the band), a score does "
    )
    yield Chart('objects', 'Objects per image', 'Last round; crowds and ignored regions are not counted.', draw_objects)
    text_sizes = 'Last round; by area of the box: small is below 32 x 32 pixels, large from 96 x 96 on, as in COCO.'
    yield Chart('sizes', 'Object sizes', text_sizes, draw_sizes)
    yield Chart('spearman', 'Scores and crowds', f'{text}not just count objects.', draw_spearman)


# -------------------------------------------------------------------- pictures
def _picture(info: Dict[str, Any], names: Sequence[str]) -> bytes:
    """An image as PNG with the boxes of its annotations, each in its class's colour and named; ignored ones dashed.

    Raises:
        MmacsError: If the image cannot be read.
    """
    try:
        pixels = info['img'] if 'img' in info else mmcv.imread(info['img_path'], channel_order='rgb')
    except (OSError, cv2.error) as error:
        raise MmacsError(f'cannot read image {info["img_path"]}: {error}') from error
    if pixels is None:  # where OpenCV can't decode what is in the file
        raise MmacsError(f'cannot read image {info["img_path"]}')
    height, width = pixels.shape[:2]
    scale = _SIDE / max(height, width)
    figure = Figure(figsize=(width * scale / 100, height * scale / 100), dpi=100)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels, aspect='auto', cmap='gray')
    axis.set_axis_off()
    for one in info.get('instances', ()):
        x1, y1, x2, y2 = one['bbox']
        colour = _PALETTE[one['bbox_label'] % len(_PALETTE)]
        style = 'dashed' if one.get('ignore_flag') else 'solid'
        for line, shade in ((2.6, 'black'), (1.4, colour)):  # a dark edge shows on any background
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=shade, lw=line, ls=style))
        label = {'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8, 'alpha': 0.85}
        at = max(x1, 0) + 2 / scale, max(y1, 0) + 2 / scale
        axis.text(*at, names[one['bbox_label']], fontsize=7, color='white', va='top', bbox=label, clip_on=True)
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer)
    # 256 colours are a third of the bytes, and tell the same.
    Image.open(buffer).convert('RGB').quantize(256).save(small, 'png', optimize=True)
    return small.getvalue()


def _caption(record: Record, contents: Contents, position: int, percentiles: Dict[str, np.ndarray]) -> Dict[str, Any]:
    """What is said below a picture: image id, content, marks, and scores with the share of images that score less."""
    labels, counts = np.unique(contents.label[contents.image == position], return_counts=True)
    content = [f'{count} {contents.names[label]}' if contents.detection else contents.names[label]
               for label, count in zip(labels.tolist(), counts.tolist())]  # fmt: skip
    marks = ['chosen' if record['chosen'][position] else 'not chosen']
    if 'trimmed' in record and record['trimmed'][position]:
        marks.append('trimmed')
    if 'noisy' in record:
        marks.append('label noise injected' if record['noisy'][position] else 'no label noise injected')
    return {
        'id': str(record['image_ids'][position]),
        'content': ', '.join(content) or 'no objects',
        'marks': marks,
        'scores': [
            (name, f'{values[position]:.3g}', f'{percentiles[name][position]:.0%}')
            for name, values in _captioned(record).items()
        ],
    }


def _captioned(record: Record) -> Dict[str, np.ndarray]:
    """The columns that captions show."""
    return {**columns(record), **({'suspicion': record['suspicion']} if 'suspicion' in record else {})}


def _galleries(record: Record) -> Iterator[Tuple[str, str, str, np.ndarray]]:
    """Stem of the files, heading, explanation and positions of the pictures of the last round."""
    importance = record['importance']
    order = np.argsort(-importance, kind='stable')
    order = order[np.isfinite(importance[order])]
    yield 'most', 'Most important', 'Of the last round, the most important first.', order[:_PICTURES]
    yield 'least', 'Least important', 'Of the last round, the least important first.', order[::-1][:_PICTURES]
    if 'suspicion' not in record:
        return
    text = 'The images of highest suspicion in the last round.'
    trimmed = record.get('trimmed')
    if trimmed is not None:
        text += f' {np.count_nonzero(trimmed)} images are trimmed: they are not trained on.'
    if 'noisy' in record:
        noisy = record['noisy']
        text += f' {np.count_nonzero(noisy)} images have label noise injected'
        if trimmed is not None and trimmed.any() and noisy.any():
            hit = np.count_nonzero(trimmed & noisy)
            text += f'; {hit / np.count_nonzero(trimmed):.0%} of the trimmed images are among them, and '
            text += f'{hit / np.count_nonzero(noisy):.0%} of them are trimmed'
        text += '.'
    order = np.argsort(-record['suspicion'], kind='stable')
    yield 'suspect', 'Suspected label errors', text, order[:_PICTURES]


# -------------------------------------------------------------------- the page
def write_report(work_dir: os.PathLike, data_root: Optional[str] = None) -> Path:
    """Write the report of a run's coreset: ``<work_dir>/coreset_report/index.html`` and its pictures beside it.

    The page holds its pictures itself. The folder is replaced as a whole, so that nobody sees half a report.

    Args:
        work_dir (os.PathLike): Of a run with :class:`mmacs.CoresetHook`, finished or not.
        data_root (str, optional): Where the training data lies; None is where the config says.

    Returns:
        Path: The page.

    Raises:
        MmacsError: If there are no rounds, no config or no data, or the data set is not that of the run.
    """
    work_dir = Path(work_dir)
    files = round_files(work_dir)
    cfg = read_config(work_dir)
    if data_root is not None:
        move_data_root(cfg, data_root)
    check_data(cfg, ['train_dataloader'])
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    view = ScoringView(dataset, [])
    contents = read_contents(view, (dataset.metainfo or {}).get('classes') or ())

    unit = 'epoch' if 'max_epochs' in cfg.train_cfg else 'iteration'
    end = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    history = History.of((read_round(path, len(dataset), len(view)) for path in files), contents, unit)
    numbers = np.unique(np.linspace(0, len(files) - 1, min(len(files), _MAX_ROUNDS)).round().astype(int)).tolist()
    shown = {number: read_round(files[number], len(dataset), len(view)) for number in numbers}
    last = shown[numbers[-1]]
    with np.load(files[-1]) as arrays:
        last['image_ids'] = arrays['image_ids']
    seconds, metric = read_seconds(work_dir), read_metric(work_dir)

    charts = {
        'cost': [chart for chart in [_cost_chart(history, seconds)] if chart],
        'scores': [_score_chart(name, shown) for name in columns(last)],
        'course': [*_course_charts(history, metric, unit, end), *_usage_charts(history)],
        'contents': [*_content_charts(contents, last['chosen'], history)] if len(contents.image) else [],
    }
    with _replaced(work_dir / 'coreset_report') as folder:
        page = {
            'galleries': _draw_galleries(last, view, contents, folder),
            'name': Path(cfg.filename).stem,
            'date': datetime.fromtimestamp(files[-1].stat().st_mtime).strftime('%Y-%m-%d %H:%M'),
            'facts': _facts(history, last, len(dataset), metric),
            'settings': _settings(cfg),
            'table': _table(history, unit),
            'cost': _cost_sentences(history, seconds, len(last['indices']) / len(dataset)),
            'some_rounds': len(shown) < len(files),
            'charts': {part: [_written(chart, folder) for chart in some] for part, some in charts.items()},
        }
        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        (folder / 'index.html').write_text(
            templates.get_template('coreset_report.html.j2').render(page), encoding='utf-8'
        )
    return work_dir / 'coreset_report' / 'index.html'


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which takes the place of ``folder`` if the body succeeds."""
    scratch = Path(mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    try:
        draft = scratch / 'new'
        draft.mkdir()  # mkdtemp's own folder is readable by its owner alone
        yield draft
        if folder.exists():
            folder.rename(scratch / 'old')
        draft.rename(folder)
    finally:
        shutil.rmtree(scratch)


def _inline(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def _written(chart: Chart, folder: Path) -> Dict[str, str]:
    """Draw a chart, write its PNG, and give what the page needs of it."""
    light = _render(chart, 'light')
    (folder / f'{chart.name}.png').write_bytes(light)
    return {'title': chart.title, 'text': chart.text, 'light': _inline(light), 'dark': _inline(_render(chart, 'dark'))}


def _draw_galleries(record: Record, view: ScoringView, contents: Contents, folder: Path) -> List[Dict[str, Any]]:
    percentiles = {
        name: (rankdata(values, 'min', nan_policy='omit') - 1) / len(values)
        for name, values in _captioned(record).items()
    }
    galleries = []
    for stem, title, text, positions in _galleries(record):
        pictures = []
        for number, position in enumerate(positions.tolist(), start=1):
            was, now = str(record['image_ids'][position]), str(view.image_id(position))
            if Path(was).name != Path(now).name:  # of paths, the folder may have moved
                raise MmacsError(
                    f'the data set has changed: what was image {was} is now {now}; name the data of that run'
                )
            png = _picture(view.info(position), contents.names)
            (folder / f'{stem}_{number:02d}.png').write_bytes(png)
            pictures.append({'png': _inline(png), **_caption(record, contents, position, percentiles)})
        galleries.append({'title': title, 'text': text, 'pictures': pictures})
    return galleries


def _facts(
    history: History, last: Record, num_indices: int, metric: Tuple[str, Dict[int, float]]
) -> List[Tuple[str, str]]:
    """The numbers at the top of the page."""
    num_images, size = len(history.times), len(last['indices'])
    repeats = f', {num_indices} with repeats' if num_indices != num_images else ''
    facts = [
        ('images (N)', f'{num_images}{repeats}'),
        ('coreset (S)', f'{size / num_indices:.1%}, {size} images'),
        ('rounds', str(len(history.rounds))),
        ('ever chosen', f'{np.mean(history.times > 0):.1%} of the images'),
        ('in every round', f'{np.mean(history.times == len(history.rounds)):.1%} of the images'),
    ]
    if 'noisy' in last:
        facts.append(
            ('label noise', f'{last["noisy"].mean():.1%} of all, {last["noisy"][last["chosen"]].mean():.1%} of chosen')
        )
    if metric[1]:
        facts.append((metric[0], f'{metric[1][max(metric[1])]:.4g} at the end'))
    return facts


def _settings(cfg: Config) -> List[Tuple[str, str]]:
    """What the config says of the selection, such as ``('interval', '4')``."""

    def name(value: Any) -> str:
        return str(value).split('.')[-1].strip("'>")  # of a registered name, or of a class

    def written(value: Any) -> str:
        if not isinstance(value, dict):
            return str(value)
        arguments = ', '.join(f'{key}={written(part)}' for key, part in value.items() if key != 'type')
        return f'{name(value["type"])}{f"({arguments})" if arguments else ""}' if 'type' in value else arguments

    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    ours = next((hook for hook in hooks if isinstance(hook, dict) and name(hook.get('type')) == 'CoresetHook'), {})
    return [(key, written(value)) for key, value in ours.items() if key not in ('type', 'pipeline')]


def _table(history: History, unit: str) -> Dict[str, List[Any]]:
    """Heads and rows of the table of rounds, without the columns that nothing is known of."""
    formats: Dict[str, Tuple[str, Callable[[Any], str]]] = {
        'at': (f'before {unit}', lambda value: str(value + 1)),
        'beta': ('beta', '{:.3f}'.format),
        'images': ('images', str),
        'new': ('new images', str),
        'churn': ('churn', '{:.3f}'.format),
        'overlap': ('overlap', '{:.1%}'.format),
        'noisy': ('label noise', '{:.1%}'.format),
        'seconds': ('seconds', '{:.1f}'.format),
        'digest': ('digest', str),
    }
    known = [key for key in formats if any(facts[key] is not None for facts in history.rounds)]
    rows = [
        [str(number), *('–' if facts[key] is None else formats[key][1](facts[key]) for key in known)]
        for number, facts in enumerate(history.rounds)
    ]
    return {'heads': ['round', *(formats[key][0] for key in known)], 'rows': rows}


def _cost_sentences(history: History, seconds: Dict[str, float], fraction: float) -> List[str]:
    """What selection cost, and what training on everything would have."""
    if not seconds:
        return ['The run has not finished: it writes the seconds of training and selection at its end.']
    training, selection = seconds['training'], seconds['selection']
    total, full = training + selection, training / fraction
    verdict = f'{1 - total / full:.0%} less' if total <= full else f'{total / full - 1:.0%} more'
    return [
        f'Selection took {selection:.1f} s, training {training:.1f} s: {selection / total:.0%} of the time went into '
        f'{len(history.rounds)} rounds.',
        f'Training on all images would have taken about {full:.0f} s for as many epochs: the run took {verdict}.',
    ]
