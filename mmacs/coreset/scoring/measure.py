"""What scoring costs, and what scoring at less than full cost is worth: both measured on a few images."""

import time
from typing import Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dist import broadcast_object_list, get_world_size
from scipy.stats import spearmanr
from torch import Tensor, nn

from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ReadTeacherOutputs, ScoringPass
from mmacs.utils.clock import seconds_since
from mmacs.utils.progress import phase


def measure_costs(
    scoring: ScoringPass,
    scorer: Scorer,
    columns: Sequence[str],
    model: nn.Module,
    teacher: Optional[nn.Module],
    read_teacher: Optional[ReadTeacherOutputs] = None,
    num_batches: int = 3,
) -> Tuple[float, float, float]:
    """Measures what scoring costs.

    Args:
        scoring (ScoringPass): How images are brought to the models.
        scorer (Scorer): The scorer.
        columns (Sequence[str]): Columns to compute.
        model (nn.Module): The quantized model.
        teacher (nn.Module, optional): The full-precision model, if its outputs are needed and not known yet.
        read_teacher (Callable, optional): Reads the teacher's outputs, where they are known.
        num_batches (int): Batches to time per process, after one that warms up.

    Returns:
        Tuple[float, float, float]: Seconds per image, of all processes together, for scoring by the quantized model,
        for the teacher's outputs, 0 where they are known, and for a forward pass of the quantized model alone; the same
        in all processes.
    """
    images, batch = len(scoring.data), scoring.batch_size * get_world_size()
    warm, timed = np.split(np.arange(min(images, (1 + num_batches) * batch)), [min(batch, images)])
    timed = timed if len(timed) else warm
    seconds = []
    with phase('measuring what scoring costs', 2, 'times') as under_way:
        for positions in under_way.each((warm, timed)):
            rows = FewRows()
            start = time.perf_counter()
            if teacher is not None and read_teacher is None:
                scoring.teacher_outputs(scorer, teacher, columns, positions, rows.write)
            teaching, start = seconds_since(start), time.perf_counter()
            scoring.scores(scorer, model, positions, columns, read_teacher or rows.read)
            scored, start = seconds_since(start), time.perf_counter()
            scoring.scores(scorer, model, positions, [], None)
            seconds = [span / len(positions) for span in (scored, teaching, seconds_since(start))]
    broadcast_object_list(seconds)
    return tuple(seconds)


def exact_scores(
    scoring: ScoringPass,
    scorer: Scorer,
    columns: Sequence[str],
    model: nn.Module,
    teacher: Optional[nn.Module],
    positions: np.ndarray,
) -> Dict[str, np.ndarray]:
    """Returns the scores of a few images, float32, shape (P,) each, with the teacher's outputs computed anew.

    Args:
        scoring (ScoringPass): At full resolution and precision.
        scorer (Scorer): The scorer.
        columns (Sequence[str]): Columns to compute.
        model (nn.Module): The quantized model.
        teacher (nn.Module, optional): The full-precision model, if a column needs it.
        positions (np.ndarray): The images, int64, shape (P,).
    """
    rows = FewRows()
    if teacher is not None:
        scoring.teacher_outputs(scorer, teacher, columns, positions, rows.write)
    return scoring.scores(scorer, model, positions, columns, rows.read)


def rank_correlations(proxy: Dict[str, np.ndarray], exact: Dict[str, np.ndarray]) -> Dict[str, float]:
    """Returns Spearman's rank correlation of both kinds of scores by column; 0 where either is constant."""
    found = {}
    for name, scores in proxy.items():
        constant = np.ptp(scores) == 0 or np.ptp(exact[name]) == 0
        found[name] = 0.0 if constant else float(spearmanr(scores, exact[name])[0])
    return found


class FewRows:
    """The teacher's outputs of a few images in memory."""

    def __init__(self) -> None:
        self._rows: Dict[int, Dict[str, Tensor]] = {}

    def write(self, positions: np.ndarray, rows: Dict[str, Tensor]) -> None:
        """Keeps the rows, batch first, of images."""
        for i, position in enumerate(positions.tolist()):
            self._rows[position] = {name: row[i] for name, row in rows.items()}

    def read(self, positions: np.ndarray) -> Dict[str, Tensor]:
        """Returns the rows of images, batch first."""
        batch = [self._rows[position] for position in positions.tolist()]
        return {name: torch.stack([row[name] for row in batch]) for name in batch[0]}
