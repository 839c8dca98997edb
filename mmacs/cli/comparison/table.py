"""The table of a comparison in Markdown."""

from collections import Counter
from typing import List, Optional

from mmacs.evaluation.comparison import BASELINE, Record, Row, Spread
from mmacs.evaluation.paired import PairedDifference


def render(records: List[Record], rows: List[Row]) -> str:
    """Returns the table, and what one has to know to read it.

    Args:
        records (List[Record]): A line each, from :func:`mmacs.evaluation.comparison.summarise`.
        rows (List[Row]): What they were made from.
    """
    if not records:
        return 'No run is done yet.\n'
    metrics = list(dict.fromkeys(name for record in records for name in record.metrics))
    heads = [name.split('/')[-1].removeprefix('bbox_') for name in metrics]
    columns = ['stage', 'recipe', 'method', 'fraction', 'epochs', 'images', *heads, 'n']
    columns += [f'to {BASELINE}, equal images', f'to {BASELINE}, equal time']
    columns += ['training s', 'selection s', 'total s', f'{heads[0] if heads else "metric"} / full', 'total / full']
    lines = ['| ' + ' | '.join(columns) + ' |', '|---' * len(columns) + '|']
    lines += ['| ' + ' | '.join(_line(record, metrics)) + ' |' for record in records]
    return '\n'.join([*lines, '', *_notes(records, rows)]) + '\n'


def _line(record: Record, metrics: List[str]) -> List[str]:
    key, trained = record.key, record.key.stage == 'qat'
    cells = [key.stage, key.recipe, key.label + (' (tuned on)' if key.tuned else '')]
    cells += ['' if key.fraction is None else f'{key.fraction:.4g}']
    cells += [f'{record.epochs:.4g}', f'{record.images:.0f}'] if trained else ['', '']
    cells += [_value(record.metrics[name], name == record.metric) for name in metrics]
    cells.append(str(len(record.seeds)))
    digits = _digits(record.value.mean)
    cells += [_difference(one, digits) for one in (record.equal_images, record.equal_time)]
    seconds = (record.training_seconds, record.selection_seconds, record.seconds)
    cells += [f'{one:.0f}' if trained else '' for one in seconds]
    ratios = record.of_full or (None, None)
    return cells + ['' if ratio is None else f'{ratio:.3f}' for ratio in ratios]


def _digits(value: float) -> int:
    """Shares have three decimals, percentages two."""
    return 3 if abs(value) <= 1 else 2


def _value(spread: Spread, with_std: bool) -> str:
    digits = _digits(spread.mean)
    text = f'{spread.mean:.{digits}f}'
    return f'{text} ± {spread.std:.{digits}f}' if with_std and spread.std is not None else text


def _difference(difference: Optional[PairedDifference], digits: int) -> str:
    if difference is None:
        return ''
    text = f'{difference.mean:+.{digits}f}'
    if difference.standard_error is not None:
        text += f' ± {difference.standard_error:.{digits}f}'
    t = '' if difference.t is None else f', t {difference.t:.1f}'
    return f'{text} (n {difference.pairs}{t})'


def _notes(records: List[Record], rows: List[Row]) -> List[str]:
    notes = ['Of the final epoch: mean, and standard deviation over n seeds.']
    if any(record.equal_images or record.equal_time for record in records):
        notes.append(
            f'Differences to {BASELINE} are of the same seeds, with the standard error of their mean and t (paired); '
            f'at equal time {BASELINE} was trained for the seconds of the method, selection included.'
        )
    if any(record.key.tuned for record in records):
        notes.append('Something was tuned on runs that are marked so: they prove nothing.')
    counts = Counter((row.machine, row.threads) for row in rows if row.stage == 'qat')
    if counts:
        names = [f'{machine}, {threads} thread{"s" * (threads != 1)}' for machine, threads in counts]
        if len(names) == 1:
            notes.append(f'Seconds are of {names[0]}.')
        else:
            listed = '; '.join(f'{count} runs on {name}' for name, count in zip(names, counts.values()))
            notes.append(f'Seconds are of several machines and do not compare: {listed}.')
    return notes
