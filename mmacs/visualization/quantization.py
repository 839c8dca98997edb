"""The picture of a quantization report: bars per layer, in the model's order."""

import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmacs.quantization.analysis.report import images_of
from mmacs.utils.files import atomic_path
from mmacs.visualization.charts import plain_text

_WEIGHT, _INPUT, _DROP = 'tab:blue', 'tab:orange', 'tab:red'
_ROW = 0.21  # inches per layer

Values = List[Optional[float]]


@plain_text()
def draw_report(report: Dict[str, Any], path: os.PathLike) -> None:
    """Draw a quantization report: one row per layer, one panel per quantity.

    Panels are the signal-to-quantization-noise ratio, the share of clipped values and of levels in use, for weights
    and inputs, and the sensitivity if it was measured.

    Args:
        report (dict): What ``mmacs report quantization`` writes as ``report.json``.
        path (os.PathLike): The PNG to write.
    """
    layers = report['layers']
    with_drops = bool(report['sensitivity'])
    count = 4 if with_drops else 3
    figure = Figure(figsize=(3.6 + 2.9 * count, 1.7 + _ROW * len(layers)), layout='constrained')
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    quantities: Sequence[Tuple[str, Callable[[Dict[str, Any]], Optional[float]]]] = (
        ('signal-to-quantization-noise\nratio (dB)', lambda found: found['sqnr_db']),
        ('clipped values (%)', lambda found: None if found['clipped'] is None else 100 * found['clipped']),
        ('levels in use (% of 2^bits)', lambda found: 100 * found['levels'] / 2 ** found['bits']),
    )
    for axis, (label, value) in zip(panels, quantities):
        weights = [value(layer['weight']) if layer['weight'] else None for layer in layers]
        inputs = [value(layer['inputs'][0]) if layer['inputs'] else None for layer in layers]
        _bars(axis, label, {'weights': (weights, _WEIGHT), 'inputs': (inputs, _INPUT)})
    if with_drops:
        found = report['sensitivity']
        label = f'drop of {found["metric"]} on {found["images"]} images\nwith this layer alone quantized'
        _bars(panels[-1], label, {'sensitivity': ([layer['drop'] for layer in layers], _DROP)})
    first = panels[0]
    first.set_yticks(range(len(layers)), [_label(layer) for layer in layers], fontsize=8)
    first.set_ylim(len(layers) - 0.4, -0.6)  # the model's first layer is at the top
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper right', ncols=2, frameon=False)
    figure.suptitle(f'{report["model"]}, {images_of(report)}', x=0.01, ha='left', fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _label(layer: Dict[str, Any]) -> str:
    """Name and bit-widths of what is quantized, such as ``'backbone.conv1  W8 A8'``."""
    kinds = zip('WA', (layer['weight'], *layer['inputs'][:1]))
    return f'{layer["name"]}  ' + ' '.join(f'{kind}{found["bits"]}' for kind, found in kinds if found)


def _bars(axis: Axes, label: str, series: Dict[str, Tuple[Values, str]]) -> None:
    """Horizontal bars, several series side by side in each row; None is left blank."""
    height = 0.8 / len(series)
    for number, (name, (values, colour)) in enumerate(series.items()):
        rows = [row + (number - (len(series) - 1) / 2) * height for row in range(len(values))]
        axis.barh(rows, [value or 0 for value in values], height, color=colour, label=name)
    for row in range(0, max(len(values) for values, _ in series.values()), 2):
        axis.axhspan(row - 0.5, row + 0.5, color='0.95', zorder=0)
    ends = [0, *(value for values, _ in series.values() for value in values if value)]
    axis.set_xlim((1.05 * min(ends), 1.05 * max(ends)) if len(ends) > 1 else (0, 1))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(axis='x', labelsize=8)
    axis.tick_params(axis='y', length=0)
    axis.grid(axis='x', color='0.8', linewidth=0.6)
    axis.set_axisbelow(True)
    axis.axvline(0, color='0.4', linewidth=0.8)
    axis.spines[['top', 'right', 'left']].set_visible(False)
