"""The report of a run's coreset, one HTML page: what it picked, why, and what that cost."""

import os
import shutil
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mmengine.config import Config

from mmacs.utils.errors import printable
from mmacs.utils.files import writing
from mmacs.visualization.charts import Chart, inline, to_svg
from mmacs.visualization.coreset_report.charts import cost_chart, course_charts, score_chart, usage_charts
from mmacs.visualization.coreset_report.content_charts import content_charts
from mmacs.visualization.coreset_report.contents import read_contents
from mmacs.visualization.coreset_report.pictures import draw_galleries
from mmacs.visualization.coreset_report.rounds import (
    History,
    Record,
    columns,
    read_image_ids,
    read_metric,
    read_round,
    read_seconds,
    round_files,
)
from mmacs.visualization.coreset_report.run import read_run, require_same_images, run_of_config

_MAX_ROUNDS = 6  # whose scores are drawn


def write_report(work_dir: os.PathLike, data_root: Optional[str] = None, config: Optional[Config] = None) -> Path:
    """Write the report of a run's coreset: ``<work_dir>/coreset_report/index.html`` and its pictures beside it.

    The page holds its pictures itself. The folder is replaced as a whole, so that nobody sees half a report. Nothing of
    the work dir is executed.

    Args:
        work_dir (os.PathLike): Of a run with :class:`mmacs.CoresetHook`, finished or not.
        data_root (str, optional): Where the training data lies; None is where the run had it.
        config (Config, optional): The run's config, of which its data set is built. Needed for runs of earlier
            versions, and for pictures of images that lie in no files of their own.

    Returns:
        Path: The page.

    Raises:
        MmacsError: If there are no rounds or no data, or the data set is not that of the run.
    """
    work_dir = Path(work_dir)
    files = round_files(work_dir)
    run = read_run(work_dir, data_root) if config is None else run_of_config(config, data_root)
    num_indices, num_images = int(run.truth.num_indices), len(run.truth.ends)
    unit, end = run.about['unit'], run.about['end']
    contents = read_contents(run.truth)

    history = History.of((read_round(path, num_indices, num_images) for path in files), contents, unit)
    numbers = np.unique(np.linspace(0, len(files) - 1, min(len(files), _MAX_ROUNDS)).round().astype(int)).tolist()
    shown = {number: read_round(files[number], num_indices, num_images) for number in numbers}
    last = shown[numbers[-1]]
    last['image_ids'] = read_image_ids(files[-1], num_images)
    require_same_images(run.truth, last['image_ids'])
    seconds, metric = read_seconds(work_dir), read_metric(work_dir)

    charts = {
        'cost': [cost_chart(history, seconds)],
        'scores': [score_chart(name, shown) for name in columns(last)],
        'course': [*course_charts(history, metric, unit, end), *usage_charts(history)],
        'contents': [*content_charts(contents, last['chosen'], history)] if len(contents.image) else [],
    }
    report = work_dir / 'coreset_report'
    with writing(report, elsewhere='copy the work dir to where there is room'), _replaced(report) as folder:
        page = {
            'galleries': [] if run.no_pictures else draw_galleries(last, run.info, contents, folder),
            'no_pictures': run.no_pictures,
            'name': run.about['name'],
            'date': datetime.fromtimestamp(files[-1].stat().st_mtime).strftime('%Y-%m-%d %H:%M'),
            'facts': _facts(history, last, num_indices, metric, unit),
            'settings': [*run.about['settings'].items()],
            'table': _table(history, unit),
            'cost': _cost_sentences(history, seconds, len(last['indices']) / num_indices),
            'some_rounds': len(shown) < len(files),
            'charts': {part: [_written(chart, folder) for chart in some] for part, some in charts.items()},
        }
        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        (folder / 'index.html').write_text(templates.get_template('page.html.j2').render(page), encoding='utf-8')
    return report / 'index.html'


def _shown(value: Any) -> Any:
    """Escapes control characters of all that the page shows but what is written for it; jinja escapes the rest."""
    return printable(value) if type(value) is str else value


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


def _written(chart: Chart, folder: Path) -> Dict[str, str]:
    """Draw a chart, write it, and give what the page needs of it."""
    svg = to_svg(chart)
    (folder / f'{chart.name}.svg').write_text(svg, encoding='utf-8')
    return {'title': chart.title, 'text': chart.text, 'svg': inline(svg)}


def _facts(
    history: History, last: Record, num_indices: int, metric: Tuple[str, Dict[int, float]], unit: str
) -> List[Tuple[str, str]]:
    """Returns the numbers at the top of the page."""
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
    name, values = metric
    if values:
        facts.append((name, f'{values[max(values)]:.4g} after {unit} {max(values)}'))
    return facts


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
    """Returns what selection cost, and what training on everything would have."""
    if not seconds:
        return ['The run has not finished: it writes the seconds of training and selection at its end.']
    training, selection = seconds['training'], seconds['selection']
    total, full = training + selection, training / fraction
    if not total:
        return ['The run took no time that a clock could tell.']
    verdict = f'{1 - total / full:.0%} less' if total <= full else f'{total / full - 1:.0%} more'
    return [
        f'Selection took {selection:.1f} s, training {training:.1f} s: {selection / total:.0%} of the time went into '
        f'selection ({len(history.rounds)} rounds).',
        f'Training on all images would have taken about {full:.0f} s for as many epochs: the run took {verdict}.',
    ]
