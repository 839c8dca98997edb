"""The report of a run's coreset, one HTML page: what it picked, why, and what that cost."""

import os
import shutil
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
from mmengine.config import Config
from torch import nn

from mmacs.coreset.ground_truth import GroundTruth
from mmacs.coreset.selection.trimming import noise_counts
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.files import writing
from mmacs.visualization.charts import Chart, inline, to_svg
from mmacs.visualization.coreset_report.charts import cost_chart, course_charts, score_chart, usage_charts
from mmacs.visualization.coreset_report.content_charts import content_charts
from mmacs.visualization.coreset_report.contents import Contents
from mmacs.visualization.coreset_report.forms import NUM_IMAGES
from mmacs.visualization.coreset_report.predictions import MODELS, predict, read_predictions, write_predictions
from mmacs.visualization.coreset_report.read import PREDICTIONS, Rounds, read_rounds
from mmacs.visualization.coreset_report.rounds import History, Record, columns, read_metric, read_seconds
from mmacs.visualization.coreset_report.shown import choose_shown, describe_images, follow, suspects
from mmacs.visualization.pages import render

NO_PREDICTIONS = (
    'What the models find in these images is not known: a run with coreset=dict(report=True) looks, or '
    'mmacs report coreset WORK_DIR --config CONFIG --predict.'
)

_HERE = Path(__file__).parent
_MAX_ROUNDS = 6  # whose scores are drawn
_MIN_SUSPECTS, _MAX_SUSPECTS = 12, 200  # in the table


def write_report(
    work_dir: os.PathLike,
    data_root: Optional[str] = None,
    config: Optional[Config] = None,
    num_images: int = NUM_IMAGES,
    no_predictions: str = NO_PREDICTIONS,
) -> Path:
    """Write the report of a run's coreset: ``<work_dir>/coreset_report/index.html``, and its charts beside it.

    The page holds all that it shows. The folder is replaced as a whole, so that nobody sees half a report. Nothing of
    the work dir is executed.

    Args:
        work_dir (os.PathLike): Of a run with :class:`mmacs.CoresetHook`, finished or not.
        data_root (str, optional): Where the training data lies; None is where the run had it.
        config (Config, optional): The run's config, of which its data set is built. Needed for runs of earlier
            versions, and for pictures of images that lie in no files of their own.
        num_images (int): How many images to show; a page of 200 takes some 10 MB. Defaults to 200.
        no_predictions (str): What the page says where it has no predictions.

    Returns:
        Path: The page.

    Raises:
        MmacsError: If there are no rounds or no data, or the data set is not that of the run.
    """
    work_dir = Path(work_dir)
    return _write_page(read_rounds(work_dir, data_root, config), work_dir, num_images, no_predictions)


def write_predicted_report(
    work_dir: Path,
    model: nn.Module,
    images: DistinctImages,
    config: Optional[Config] = None,
    num_images: int = NUM_IMAGES,
) -> Path:
    """Write the report of a run with what its models find in the images that it shows, see :func:`write_report`.

    Args:
        work_dir (Path): Of the run; its teacher is taken from there.
        model (nn.Module): The run's model, not wrapped, with its last weights; left as it is.
        images (DistinctImages): The training images, through a deterministic pipeline.
        config (Config, optional): See :func:`write_report`.
        num_images (int): See :func:`write_report`.
    """
    rounds = read_rounds(work_dir, config=config)
    predictions = predict(model, work_dir, images, choose_shown(rounds.last, num_images))
    write_predictions(work_dir / 'coreset' / PREDICTIONS, predictions)
    return _write_page(rounds, work_dir, num_images)


def _write_page(rounds: Rounds, work_dir: Path, num_images: int, no_predictions: str = NO_PREDICTIONS) -> Path:
    run, last, history, contents = rounds.run, rounds.last, rounds.history, rounds.contents
    count, num_indices = len(rounds.files), int(run.truth.num_indices)
    numbers = np.unique(np.linspace(0, count - 1, min(count, _MAX_ROUNDS)).round().astype(int)).tolist()
    drawn = {number: last if number == count - 1 else rounds.read(number) for number in numbers}
    seconds, metric = read_seconds(work_dir), read_metric(work_dir)

    positions = choose_shown(last, num_images)
    course = follow(rounds.read, count, last, positions)
    predictions = read_predictions(work_dir / 'coreset' / PREDICTIONS, len(run.truth.ends))
    info = None if run.no_pictures else run.info
    images = describe_images(positions, last, course, history, run.truth, contents, info, predictions)
    suspected = _suspects(last, run.truth, contents, positions)

    charts = {
        'cost': [cost_chart(history, seconds)],
        'scores': [score_chart(name, drawn, run.about['scores'].get(name, '')) for name in columns(last)],
        'course': [*course_charts(history, metric, run.about['unit'], run.about['end']), *usage_charts(history)],
        'contents': [*content_charts(contents, last['chosen'], history)] if len(contents.image) else [],
    }
    report = work_dir / 'coreset_report'
    with writing(report, elsewhere='copy the work dir to where there is room'), _replaced(report) as folder:
        page = render(
            _HERE / 'page.html.j2',
            [_HERE / 'gallery.css', _HERE / 'gallery.js'],
            {
                'images': images,
                'total': len(run.truth.ends),
                'count': count,
                'rounds': course.rounds,
                'before': [_before(history, number, run.about['unit']) for number in course.rounds],
                'columns': course.columns,
                'classes': contents.names,
                'detection': contents.detection,
                'models': {name: MODELS[name] for name in predictions},
            },
            images_text=_images_text(len(images), len(run.truth.ends), 'suspicion' in last),
            no_pictures=run.no_pictures,
            no_predictions='' if predictions else no_predictions,
            columns=course.columns,
            suspects=suspected,
            suspects_text=_suspects_text(last, len(suspected)) if suspected else '',
            name=run.about['name'],
            date=datetime.fromtimestamp(rounds.files[-1].stat().st_mtime).strftime('%Y-%m-%d %H:%M'),
            facts=_facts(history, last, num_indices, metric, run.about['unit']),
            settings=[*run.about['settings'].items()],
            config=run.config.splitlines(),
            table=_table(history, run.about['unit']),
            cost=_cost_sentences(history, seconds, len(last['indices']) / num_indices),
            some_rounds=len(drawn) < count,
            charts={part: [_written(chart, folder) for chart in some] for part, some in charts.items()},
        )
        (folder / 'index.html').write_text(page, encoding='utf-8')
    return report / 'index.html'


def _before(history: History, number: int, unit: str) -> str:
    return f'in round {number}, before {unit} {history.rounds[number]["at"] + 1}'


def _images_text(shown: int, total: int, suspicion: bool) -> str:
    if shown == total:
        return f'All {total} images. Click one to enlarge it; the round tells what was known and chosen then.'
    kinds = 'of highest and of lowest importance' + (', of highest suspicion' if suspicion else '')
    return (
        f'{shown} of {total} images: those {kinds} in the last round, and others spread over the order of importance. '
        f'Click one to enlarge it; the round tells what was known and chosen then. In brackets: the share of all '
        f'images that score less.'
    )


def _suspects(last: Record, truth: GroundTruth, contents: Contents, positions: np.ndarray) -> List[Dict[str, Any]]:
    """Returns the rows of the table of suspected label errors, none if the run looked for none."""
    if 'suspicion' not in last:
        return []
    places = {position: place for place, position in enumerate(positions.tolist())}
    count = max(_MIN_SUSPECTS, len(last['trimmed']) // 20, np.count_nonzero(last['trimmed']))
    rows = suspects(last, truth, contents, min(count, _MAX_SUSPECTS))
    words = (('trimmed', 'trimmed'), ('chosen', 'chosen'), ('noisy', 'label noise injected'))
    for row in rows:
        row['shown'] = places.get(row['position'])
        row['state'] = ', '.join(word for key, word in words if row[key])
    return rows


def _suspects_text(last: Record, count: int) -> str:
    trimmed = last['trimmed']
    text = (
        f'The {count} images whose labels look most wrong in the last round, by the error of the full-precision model'
    )
    text += f'. {np.count_nonzero(trimmed)} images are trimmed: they are not trained on.'
    if 'noisy' in last:
        found = noise_counts(last['chosen'], last['noisy'], trimmed, last.get('candidates'))
        text += f' {np.count_nonzero(last["noisy"])} images have label noise injected; '
        text += f'{found["trim_precision"]:.0%} of the trimmed images are among them, and '
        of_them = 'of them' if 'candidates' not in last else 'of those that could be chosen'
        text += f'{found["trim_recall"]:.0%} {of_them} are trimmed.'
    if trimmed.any():
        text += ' mmacs report coreset --export writes the trimmed ones as a list of files, CSV, COCO or FiftyOne.'
    return text


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
