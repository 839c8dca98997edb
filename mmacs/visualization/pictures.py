"""Pictures of a run: its most and least important images, and some of its detections."""

import os
from pathlib import Path
from typing import Any, Dict, Sequence

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.dataset import BaseDataset, pseudo_collate
from torch import nn

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.utils.errors import MmacsError, printable
from mmacs.utils.files import atomic_path
from mmacs.visualization.charts import plain_text
from mmacs.visualization.coreset_report.rounds import columns, read_round

_TRUTH, _PREDICTION = 'lime', 'red'


@plain_text()
def draw_extremes(round_file: os.PathLike, images: DistinctImages, path: os.PathLike, count: int = 6) -> None:
    """Draw two rows of images with their ground-truth boxes: of highest and of lowest importance.

    Args:
        round_file (os.PathLike): A ``round_<n>.npz`` that :class:`mmacs.CoresetHook` wrote.
        images (DistinctImages): The images of that run.
        path (os.PathLike): The PNG to write.
        count (int): Images per row. Defaults to 6.
    """
    record = read_round(Path(round_file), len(images.positions), len(images))
    order = np.argsort(-record['importance'], kind='stable')
    order = order[np.isfinite(record['importance'][order])]  # others were not to choose among
    count = min(count, len(order))
    figure = Figure(figsize=(2.2 * count, 5.6), layout='constrained')
    axes = figure.subplots(2, count, squeeze=False)
    rows = {'most important': order[:count], 'least important': order[::-1][:count]}
    for row, (title, positions) in zip(axes, rows.items()):
        for axis, position in zip(row, positions):
            _draw_truth(axis, images.info(position))
            shown = '\n'.join(f'{name} {values[position]:.2f}' for name, values in columns(record).items())
            axis.set_title(shown, fontsize=8)
        row[0].set_ylabel(title, fontsize=11)
    figure.suptitle(f'Coreset selection before epoch {int(record["epoch"]) + 1}', fontsize=11)
    _save(figure, path)


@plain_text()
def draw_detections(
    model: nn.Module, dataset: BaseDataset, path: os.PathLike, count: int = 8, score_threshold: float = 0.4
) -> None:
    """Draw detections in red over ground truth in green, on images spread evenly over a data set.

    Args:
        model (nn.Module): An MMDetection detector.
        dataset (BaseDataset): A validation or test data set of MMDetection's.
        path (os.PathLike): The PNG to write.
        count (int): Number of images. Defaults to 8.
        score_threshold (float): Lowest score that is drawn. Defaults to 0.4.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    columns = (len(chosen) + 1) // 2
    figure = Figure(figsize=(3 * columns, 6.4), layout='constrained')
    axes = figure.subplots(2, columns, squeeze=False).ravel()
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    model.eval()
    for axis, index in zip(axes, chosen):
        with torch.no_grad():
            (result,) = model.test_step(pseudo_collate([dataset[index]]))
        _draw_truth(axis, dataset.get_data_info(index))
        found = result.pred_instances[result.pred_instances.scores > score_threshold].cpu()
        for box, label, score in zip(found.bboxes.tolist(), found.labels.tolist(), found.scores.tolist()):
            draw_box(axis, box, _PREDICTION)
            text = f'{printable(dataset.metainfo["classes"][label], 60)} {score:.2f}'
            style = {'fontsize': 7, 'color': 'white', 'va': 'bottom', 'backgroundcolor': (0.7, 0, 0, 0.6)}
            axis.annotate(text, box[:2], clip_on=True, **style)
    figure.suptitle(f'Detections with a score above {score_threshold} (red) and ground truth (green)', fontsize=11)
    _save(figure, path)


def _draw_truth(axis: Axes, info: Dict[str, Any]) -> None:
    """An image with the boxes of its annotations, those to be ignored dashed."""
    axis.imshow(read_image(info))
    axis.set_xticks([])
    axis.set_yticks([])
    for instance in info.get('instances', ()):
        draw_box(axis, instance['bbox'], _TRUTH, 'dashed' if instance.get('ignore_flag') else 'solid')


def read_image(info: Dict[str, Any]) -> np.ndarray:
    """Returns the pixels of an image, uint8, shape (H, W, 3) in RGB or (H, W) in grey.

    Args:
        info (dict): What MMEngine's ``get_data_info`` gives: ``img``, or ``img_path`` of a file.

    Raises:
        MmacsError: If the file cannot be read.
    """
    if 'img' in info:
        return info['img']
    try:
        pixels = mmcv.imread(info['img_path'], channel_order='rgb')
    except (OSError, cv2.error) as error:
        raise MmacsError(f'cannot read image {info["img_path"]}: {error}') from error
    if pixels is None:  # where OpenCV can't decode what is in the file
        raise MmacsError(f'cannot read image {info["img_path"]}')
    return pixels


def draw_box(axis: Axes, box: Sequence[float], colour: str, style: str = 'solid') -> None:
    """Outline a box x1, y1, x2, y2 in pixels, in a matplotlib colour and line style."""
    x1, y1, x2, y2 = box
    for width, shade in ((2.4, 'black'), (1.2, colour)):  # a dark edge shows on any background
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=shade, lw=width, ls=style))


def _save(figure: Figure, path: os.PathLike) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=90)
