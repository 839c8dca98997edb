"""What the quantized model and its teacher find in the images of a report: computed once, kept as plain arrays."""

from io import BytesIO
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import nn

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.quantization.convert import quantizers
from mmacs.teacher.model import make_teacher
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.files import write_whole
from mmacs.utils.progress import phase

MODELS = {'model': 'model', 'quantized': 'quantized model', 'teacher': 'full-precision model'}  # what they are called
_LOWEST_SCORE = 0.1
_MOST = 50  # detections of an image

Found = Dict[int, np.ndarray]  # by position: x1, y1, x2, y2 in pixels of the file, class, score; float32, shape (n, 6)
Predictions = Dict[str, Found]  # by a key of MODELS


def predict(model: nn.Module, work_dir: Path, images: DistinctImages, positions: np.ndarray) -> Predictions:
    """Returns what a model finds in images, and what its teacher does where the work dir has one.

    Args:
        model (nn.Module): A detector or classifier of MMDetection or MMPreTrain, not wrapped; left as it is.
        work_dir (Path): Of its run, which holds ``teacher.pth`` if the run had a teacher.
        images (DistinctImages): The images, through a deterministic pipeline.
        positions (np.ndarray): Which of them.

    Raises:
        MmacsError: If an image can't be read, or the model gives neither detections nor class scores.
    """
    quantized = next(quantizers(model), None) is not None
    name = 'quantized' if quantized else 'model'
    found = {name: _predict(model, images, positions, name)}
    teacher = read_teacher(model, work_dir)
    if teacher is not None:
        found['teacher'] = _predict(teacher, images, positions, 'teacher')
    return found


def read_teacher(model: nn.Module, work_dir: Path) -> Optional[nn.Module]:
    """Returns the full-precision model that a run started from, None if its work dir has none.

    Args:
        model (nn.Module): The run's model, not wrapped; left as it is.
        work_dir (Path): Of the run.
    """
    path = work_dir / 'teacher.pth'
    if next(quantizers(model), None) is None or not path.is_file():
        return None
    teacher = make_teacher(model)
    teacher.load_state_dict(read_checkpoint(path).get('state_dict', {}))
    return teacher


@torch.no_grad()
def _predict(model: nn.Module, images: DistinctImages, positions: np.ndarray, name: str) -> Found:
    found: Found = {}
    with without_side_effects(model), phase(f'what the {MODELS[name]} finds', len(positions)) as under_way:
        model.eval()
        for position in under_way.each(positions.tolist()):
            (result,) = model.test_step(pseudo_collate([images[position]]))
            found[position] = _rows(result)
    return found


def _rows(result: Any) -> np.ndarray:
    """Returns the rows of a result, the highest score first."""
    if 'pred_instances' in result:
        found = result.pred_instances
        boxes = found.bboxes.tensor if hasattr(found.bboxes, 'tensor') else found.bboxes
        rows = torch.cat([boxes, found.labels[:, None].to(boxes), found.scores[:, None].to(boxes)], dim=1)
        rows = rows[found.scores >= _LOWEST_SCORE]
    elif 'pred_score' in result:
        scores = result.pred_score.float()
        rows = scores.new_zeros(len(scores), 6)
        rows[:, 4], rows[:, 5] = torch.arange(len(scores)), scores
    else:
        raise MmacsError('the model gives neither detections nor class scores to show in a report')
    return rows[rows[:, 5].argsort(descending=True, stable=True)][:_MOST].float().cpu().numpy()


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write predictions as arrays without pickle."""
    arrays: Dict[str, np.ndarray] = {}
    for name, found in predictions.items():
        arrays[f'{name}_positions'] = np.asarray([*found], dtype=np.int64)
        arrays[f'{name}_ends'] = np.cumsum([len(rows) for rows in found.values()], dtype=np.int64)
        arrays[f'{name}_rows'] = np.concatenate([*found.values(), np.zeros((0, 6), np.float32)]).astype(np.float32)
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getbuffer())


def read_predictions(path: Path, num_images: int) -> Predictions:
    """Returns what :func:`write_predictions` wrote, nothing if there is no file.

    Args:
        path (Path): The file.
        num_images (int): Number of distinct images in the data set.

    Raises:
        MmacsError: If it is damaged.
    """
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: _read(arrays, name, num_images) for name in MODELS if f'{name}_rows' in arrays}
    except Exception as error:  # whatever a damaged file leads to
        raise MmacsError(
            f'{path} is damaged ({" ".join(str(error).split())[:100]}): delete it to have the report without it'
        ) from error


def _read(arrays: Mapping[str, np.ndarray], name: str, num_images: int) -> Found:
    positions, ends, rows = (arrays[f'{name}_{part}'] for part in ('positions', 'ends', 'rows'))
    sound = positions.dtype.kind == ends.dtype.kind == 'i' and positions.ndim == 1 and positions.shape == ends.shape
    sound = sound and rows.dtype == np.float32 and rows.ndim == 2 and rows.shape[1] == 6 and np.isfinite(rows).all()
    if not sound or [*ends[-1:]] not in ([], [len(rows)]) or (np.diff(ends, prepend=0) < 0).any():
        raise ValueError(f'its {name} rows are none')
    if len(positions) and not 0 <= positions.min() <= positions.max() < num_images:
        raise ValueError('it is about other images')
    return dict(zip(positions.tolist(), np.split(rows, ends[:-1])))
