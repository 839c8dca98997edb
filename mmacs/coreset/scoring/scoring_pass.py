"""One pass over images: their scores by the quantized model, or what is kept of the teacher's outputs."""

import math
from collections import defaultdict
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_reduce, get_dist_info, get_world_size
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmacs.coreset.data import TrainingData
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scores import round_scores
from mmacs.teacher.side_effects import main_buffers, without_side_effects
from mmacs.utils.distributed import together
from mmacs.utils.errors import MmacsError
from mmacs.utils.progress import Phase, phase

ReadTeacherOutputs = Callable[[np.ndarray], Dict[str, Tensor]]  # the teacher's, of positions


class ScoringPass:
    """How images are brought to the models: the data, the size of batches, the workers, how exact scores are.

    Batches are made up before they are shared out between processes, so that an image has the same neighbours, and
    bit for bit the same score, with any number of processes and workers.

    Args:
        data (TrainingData): The images.
        batch_size (int): Images per batch and process.
        num_workers (int): Workers of the data loader.
        proxy (Proxy): Size and precision.
    """

    def __init__(
        self, data: TrainingData, batch_size: int, num_workers: int = 0, proxy: Optional[Proxy] = None
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.proxy = proxy or Proxy()

    def with_proxy(self, proxy: Proxy) -> 'ScoringPass':
        """Returns the same pass at another size and precision."""
        return ScoringPass(self.data, self.batch_size, self.num_workers, proxy)

    def scores(
        self,
        scorer: Scorer,
        model: nn.Module,
        positions: np.ndarray,
        columns: Sequence[str],
        teacher_outputs: Optional[ReadTeacherOutputs],
    ) -> Dict[str, np.ndarray]:
        """Score images. Nothing about the model or the random generators changes.

        Scores are rounded to 14 significant bits, so that other batch sizes, whose kernels add up in another order,
        give the same scores. That ends where an activation lies so near the edge between two levels that the order
        decides, and where a score lies so near the edge between two roundings.

        Args:
            scorer (Scorer): The scorer.
            model (nn.Module): The quantized model, not wrapped for distributed training.
            positions (np.ndarray): Images to score, int64, shape (M,).
            columns (Sequence[str]): Columns to compute.
            teacher_outputs (Callable, optional): Gives the teacher's outputs of positions; needed by the columns in
                ``scorer.teacher_columns``.

        Returns:
            Dict[str, np.ndarray]: Columns, float32, each of shape (M,); the same in all processes.
        """
        place = np.full(len(self.data), -1, dtype=np.int64)
        place[positions] = np.arange(len(positions))
        found = {name: torch.zeros(len(positions), dtype=torch.float64) for name in columns}
        shown = phase('scoring', len(positions))
        with together(), without_side_effects(model), main_buffers(model), shown as under_way:
            if columns and scorer.kept_columns.issuperset(columns):
                scored = self._read(teacher_outputs, positions, under_way)
            else:
                scored = self._computed(scorer, model, columns, teacher_outputs, positions, under_way)
            for batch, scores in scored:
                for name in columns:
                    if scores[name].shape != (len(batch),):
                        raise MmacsError(
                            f'{type(scorer).__name__} must give one {name} score per image, shape ({len(batch)},), '
                            f'and gave shape {tuple(scores[name].shape)}'
                        )
                    found[name][place[batch]] = scores[name].double().cpu()
        for column in found.values():
            all_reduce(column)  # each entry is set by one process and zero in the others: the sum is exact
        return {name: round_scores(column).float().numpy() for name, column in found.items()}

    def _read(
        self, teacher_outputs: ReadTeacherOutputs, positions: np.ndarray, under_way: Phase
    ) -> Iterator[Tuple[np.ndarray, Dict[str, Tensor]]]:
        """This process's share of scores that are the teacher's outputs themselves: no image is loaded."""
        for batch in self._shares(positions):
            yield batch, teacher_outputs(batch)
            under_way.advance(get_world_size() * len(batch))

    def _computed(
        self,
        scorer: Scorer,
        model: nn.Module,
        columns: Sequence[str],
        teacher_outputs: Optional[ReadTeacherOutputs],
        positions: np.ndarray,
        under_way: Phase,
    ) -> Iterator[Tuple[np.ndarray, Dict[str, Tensor]]]:
        """This process's share of scores, by the quantized model."""
        needs_teacher = bool(scorer.teacher_columns & set(columns))
        for batch, inputs, data_samples in self._batches(model, positions, under_way):
            rows = teacher_outputs(batch) if needs_teacher else {}
            rows = {name: row.to(inputs.device) for name, row in rows.items()}
            with self.proxy.autocast(inputs.device):
                outputs = scorer.outputs(model, inputs, data_samples)
            yield batch, scorer.score(model, outputs, data_samples, rows, columns)

    def teacher_outputs(
        self,
        scorer: Scorer,
        teacher: nn.Module,
        columns: Sequence[str],
        positions: np.ndarray,
        write: Callable[[np.ndarray, Dict[str, Tensor]], None],
    ) -> None:
        """Hand what these columns need of the teacher to ``write``, batch by batch: this process's share of the images.

        It is the share that :meth:`scores` gives the process of the same positions.
        """
        shown = phase("teacher's pass", len(positions))
        with together(), without_side_effects(teacher), shown as under_way:
            for batch, inputs, data_samples in self._batches(teacher, positions, under_way):
                with self.proxy.autocast(inputs.device):
                    outputs = scorer.outputs(teacher, inputs, data_samples)
                rows = scorer.teacher_outputs(teacher, outputs, data_samples, columns)
                write(batch, {name: row.cpu() for name, row in rows.items()})

    def _batches(
        self, model: nn.Module, positions: np.ndarray, under_way: Phase
    ) -> Iterator[Tuple[np.ndarray, Tensor, List[Any]]]:
        """This process's batches: positions, preprocessed images and data samples."""
        mine = self._shares(positions)
        loader = DataLoader(
            self.data.images,
            batch_sampler=[members.tolist() for members in mine],
            num_workers=self.num_workers,
            collate_fn=pseudo_collate,
        )
        divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
        for members, batch in zip(mine, loader):
            for part, inputs, data_samples in split_by_padded_shape(model, batch):
                inputs, data_samples = self.proxy.shrink(inputs, data_samples, divisor)
                yield members[part], inputs, data_samples
            under_way.advance(get_world_size() * len(members))  # the other processes have come as far

    def _shares(self, positions: np.ndarray) -> List[np.ndarray]:
        """Returns the positions of this process's batches."""
        rank, world_size = get_dist_info()
        wanted = np.zeros(len(self.data), dtype=bool)
        wanted[positions] = True
        order = self.data.by_shape[wanted[self.data.by_shape]]
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        return batches[rank::world_size]


def split_by_padded_shape(
    model: nn.Module, batch: Dict[str, Sequence[Any]]
) -> List[Tuple[List[int], Tensor, List[Any]]]:
    """Preprocess a batch in parts, each of images that are padded to one shape.

    A convolution sees the padding, so an image padded to the size of its batch would get a score that depends on the
    other images.

    Args:
        model (nn.Module): A model with an MMEngine data preprocessor.
        batch (dict): ``'inputs'``: images (3, H, W); ``'data_samples'``: their data samples.

    Returns:
        List[Tuple[List[int], Tensor, list]]: Per part the members' places in the batch, the preprocessed images and
        their data samples.
    """
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    parts: Dict[Tuple[int, ...], List[int]] = defaultdict(list)
    for member, image in enumerate(batch['inputs']):
        parts[tuple(math.ceil(side / divisor) for side in image.shape[-2:])].append(member)
    split = []
    for members in parts.values():
        part = {key: [values[member] for member in members] for key, values in batch.items()}
        data = model.data_preprocessor(part, False)
        split.append((members, data['inputs'], data['data_samples']))
    return split
