"""The picture of a comparison of coresets: what accuracy a share of the images buys, and what a second buys."""

import os
from typing import Any, Dict, List

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mmacs.utils.files import atomic_path
from mmacs.visualization.charts import plain_text

_MARKERS = 'osD^v<>PhXpH8d'


@plain_text()
def draw_comparison(records: List[Dict[str, Any]], path: os.PathLike) -> None:
    """Draw the first metric against the fraction and against the seconds in all, a colour per method.

    Full data is a dashed line on the left, with its standard deviation as a band, and a star on the right.

    Args:
        records (List[dict]): Rows of the table that ``tools/compare_coresets.py`` writes as ``table.json``.
        path (os.PathLike): The PNG to write.
    """
    metric = next((name for record in records for name in record['metrics']), 'metric')
    figure = Figure(figsize=(11, 4.6), layout='constrained')
    by_fraction, by_seconds = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(record['method'] for record in records if record['method'] != 'full'))
    for number, method in enumerate(methods):
        rows = sorted((r for r in records if r['method'] == method), key=lambda row: row['fraction'])
        values = [row['metrics'].get(metric, {'mean': 0.0, 'std': None}) for row in rows]
        style = dict(color=f'C{number % 10}', marker=_MARKERS[number % len(_MARKERS)], label=method, capsize=3, ms=5)
        for axis, key in ((by_fraction, 'fraction'), (by_seconds, 'seconds')):
            means, errors = [value['mean'] for value in values], [value['std'] or 0.0 for value in values]
            axis.errorbar([row[key] for row in rows], means, errors, linewidth=1, elinewidth=0.8, **style)
    for record in records:
        if record['method'] == 'full' and metric in record['metrics']:
            _draw_full(by_fraction, by_seconds, record, metric)
    by_fraction.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    by_fraction.set_xlabel('images per epoch')
    by_fraction.set_ylabel(metric.split('/')[-1])
    by_seconds.set_xlabel('seconds of training and selection')
    by_seconds.set_xlim(left=0)
    for axis in (by_fraction, by_seconds):
        axis.grid(color='0.9', linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[['top', 'right']].set_visible(False)
    figure.legend(*by_fraction.get_legend_handles_labels(), loc='outside right upper', frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _draw_full(by_fraction: Axes, by_seconds: Axes, record: Dict[str, Any], metric: str) -> None:
    mean, std = record['metrics'][metric]['mean'], record['metrics'][metric]['std']
    by_fraction.axhline(mean, color='black', linestyle='dashed', linewidth=1, label='full')
    if std:
        by_fraction.axhspan(mean - std, mean + std, color='black', alpha=0.08, linewidth=0)
    by_seconds.errorbar([record['seconds']], [mean], [std or 0.0], color='black', marker='*', ms=9, capsize=3)
