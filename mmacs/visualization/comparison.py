"""The picture of a comparison: what accuracy a number of images buys, and what a second buys."""

import os
from typing import TYPE_CHECKING, Any, Dict, List

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from mmacs.utils.files import atomic_path
from mmacs.visualization.charts import plain_text

if TYPE_CHECKING:
    from mmacs.evaluation.comparison import Record

_MARKERS = 'osD^v<>PhXpH8d'
_FULL = 'full'  # the method that takes all images


@plain_text()
def draw_comparison(records: 'List[Record]', path: os.PathLike) -> None:
    """Draw the metric of what was trained against the images of all steps and against the seconds in all.

    There is a row of two plots for each recipe and a colour for each method, or, where recipes alone are compared, one
    row and a colour for each recipe. Bars are standard deviations over seeds. All images are a star, with a dashed
    line; full precision is a line. Runs that something was tuned on, or that were calibrated alone, are left out.

    Args:
        records (List[Record]): Lines of the table, see :func:`mmacs.evaluation.comparison.summarise`.
        path (os.PathLike): The PNG to write.
    """
    trained = [record for record in records if record.key.stage == 'qat' and not record.key.tuned]
    by_recipe = len({(record.key.label, record.key.fraction) for record in trained}) == 1
    panels: Dict[str, Dict[str, List[Record]]] = {}  # lines by label, by recipe
    for record in trained:
        panel, label = ('', record.key.recipe) if by_recipe else (record.key.recipe, record.key.label)
        panels.setdefault(panel, {}).setdefault(label, []).append(record)
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines if label != _FULL))
    styles = {
        label: dict(color=f'C{number % 10}', marker=_MARKERS[number % len(_MARKERS)], ms=5)
        for number, label in enumerate(labels)
    }
    styles[_FULL] = dict(color='black', marker='*', ms=9)
    figure = Figure(figsize=(11, 0.6 + 4 * max(1, len(panels))), layout='constrained')
    metric = next((record.metric for record in records if record.metric), 'metric').split('/')[-1]
    all_axes = figure.subplots(max(1, len(panels)), 2, sharey='row', squeeze=False)
    for (panel, lines), axes in zip(panels.items(), all_axes):
        for axis, name, words in zip(
            axes, ('images', 'seconds'), ('images of all steps', 'seconds, selection included')
        ):
            for label, line in lines.items():
                _draw(axis, line, name, label=label, **styles[label])
            for record in records:
                if record.key.stage == 'fp':
                    axis.axhline(record.value.mean, color='0.6', linewidth=1, label='full precision')
            axis.set_xlabel(words)
            axis.set_xlim(left=0)
            axis.xaxis.set_major_formatter(EngFormatter(sep=''))
            axis.grid(color='0.9', linewidth=0.6)
            axis.set_axisbelow(True)
            axis.spines[['top', 'right']].set_visible(False)
        axes[0].set_ylabel(f'{metric}, {panel}' if panel else metric)
    handles = {text: handle for axis in figure.axes for handle, text in zip(*axis.get_legend_handles_labels())}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc='outside right upper', frameon=False, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _draw(axis: Axes, line: 'List[Record]', name: str, **style: Any) -> None:
    points = sorted((getattr(record, name), record.value.mean, record.value.std or 0.0) for record in line)
    axis.errorbar(*zip(*points), linewidth=1, elinewidth=0.8, capsize=3, **style)
    if style['label'] == _FULL:
        axis.axhline(points[0][1], color='black', linestyle='dashed', linewidth=0.8)
