"""A picture of the most and the least important images of a selection round."""

import os
from typing import Any, Dict, List

import mmcv
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmacs.coreset.view import ScoringView
from mmacs.files import atomic_path


def draw_extremes(round_file: os.PathLike, view: ScoringView, path: os.PathLike, count: int = 6) -> None:
    """Draw two rows of images with their ground-truth boxes: of highest and of lowest importance.

    Args:
        round_file (os.PathLike): A ``round_<n>.npz`` that :class:`mmacs.CoresetHook` wrote.
        view (ScoringView): The images of that run.
        path (os.PathLike): The PNG to write.
        count (int): Images per row. Defaults to 6.
    """
    record = dict(np.load(round_file))
    order = np.argsort(-record['importance'], kind='stable')
    count = min(count, len(order))
    rows = {'most important': order[:count], 'least important': order[::-1][:count]}
    figure = Figure(figsize=(2.2 * count, 5.2), layout='constrained')
    axes = figure.subplots(2, count, squeeze=False)
    for row, (title, positions) in zip(axes, rows.items()):
        for axis, position in zip(row, positions):
            _draw_image(axis, view.info(position))
            axis.set_title(f'EVS {record["evs"][position]:.2f}   DS {record["ds"][position]:.2f}', fontsize=8)
        row[0].set_ylabel(title, fontsize=11)
    figure.suptitle(f'Coreset selection before epoch {int(record["epoch"]) + 1}', fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _draw_image(axis: Any, info: Dict[str, Any]) -> None:
    pixels = info['img'] if 'img' in info else mmcv.imread(info['img_path'], channel_order='rgb')
    axis.imshow(pixels)
    axis.set_xticks([])
    axis.set_yticks([])
    instances: List[Dict[str, Any]] = info.get('instances', [])
    for instance in instances:
        x1, y1, x2, y2 = instance['bbox']
        style = 'dashed' if instance.get('ignore_flag') else 'solid'
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color='lime', lw=1.2, ls=style))
