"""The picture of a comparison: what accuracy a number of images buys, and what a second buys."""

import os
from typing import TYPE_CHECKING, Dict, List

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mmacs.utils.files import atomic_path
from mmacs.visualization.charts import plain_text

if TYPE_CHECKING:
    from mmacs.evaluation.comparison import Record

_MARKERS = 'osD^v<>PhXpH8d'


@plain_text()
def draw_comparison(records: 'List[Record]', path: os.PathLike) -> None:
    """Draw the metric against the images of all steps and against the seconds in all, a row of two plots per recipe.

    A colour stands for a method, bars for standard deviations over seeds. All images are a star, with a dashed line.
    What was calibrated alone and full precision are lines across. Runs that something was tuned on are left out.

    Args:
        records (List[Record]): Lines of the table, see :func:`mmacs.evaluation.comparison.summarise`.
        path (os.PathLike): The PNG to write.
    """
    records = [record for record in records if not record.key.tuned]
    recipes = list(dict.fromkeys(record.key.recipe for record in records if record.key.stage == 'qat')) or ['']
    labels = list(dict.fromkeys(r.key.label for r in records if r.key.stage == 'qat' and r.key.method != 'full'))
    styles = {
        label: dict(color=f'C{number % 10}', marker=_MARKERS[number % len(_MARKERS)], label=label)
        for number, label in enumerate(labels)
    }
    figure = Figure(figsize=(11, 0.6 + 4 * len(recipes)), layout='constrained')
    for recipe, axes in zip(recipes, figure.subplots(len(recipes), 2, sharey='row', squeeze=False)):
        ours = [record for record in records if record.key.recipe == recipe and record.key.stage == 'qat']
        lines = [r for r in records if r.key.stage == 'fp' or (r.key.recipe, r.key.stage) == (recipe, 'ptq')]
        for axis, name in zip(axes, ('images', 'seconds')):
            _draw(axis, ours, lines, name, styles)
        metric = next((record.metric for record in records if record.metric), 'metric')
        axes[0].set_ylabel(f'{metric.split("/")[-1]}{f", {recipe}" if recipe else ""}')
        axes[0].set_xlabel('images of all steps')
        axes[1].set_xlabel('seconds of training and selection')
    handles = {text: handle for axis in figure.axes for handle, text in zip(*axis.get_legend_handles_labels())}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc='outside right upper', frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _draw(
    axis: Axes, trained: 'List[Record]', untrained: 'List[Record]', name: str, styles: Dict[str, Dict[str, str]]
) -> None:
    for label, style in styles.items():
        points = sorted(
            (getattr(record, name), record.value.mean, record.value.std or 0.0)
            for record in trained
            if record.key.label == label
        )
        if points:
            axis.errorbar(*zip(*points), linewidth=1, elinewidth=0.8, capsize=3, ms=5, **style)
    for record in trained:
        if record.key.method == 'full':
            mean, std = record.value.mean, record.value.std or 0.0
            axis.axhline(mean, color='black', linestyle='dashed', linewidth=0.8)
            axis.errorbar(
                [getattr(record, name)],
                [mean],
                [std],
                color='black',
                marker='*',
                ms=9,
                capsize=3,
                linestyle='',
                label='full',
            )
    for record in untrained:
        words = {'fp': ('full precision', 'solid'), 'ptq': ('calibrated alone', 'dotted')}[record.key.stage]
        axis.axhline(record.value.mean, color='0.6', linestyle=words[1], linewidth=1, label=words[0])
    axis.set_xlim(left=0)
    axis.xaxis.set_major_formatter(EngFormatter(sep=''))
    axis.grid(color='0.9', linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right']].set_visible(False)
