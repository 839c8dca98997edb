"""One scoring pass: every distinct image through the scorer, shared between processes."""

import math
from collections import defaultdict
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import all_reduce, get_dist_info
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmacs.coreset.purity import pure_evaluation
from mmacs.coreset.scorers import Scorer
from mmacs.coreset.view import ScoringView


def score_images(
    scorer: Scorer, model: nn.Module, teacher: nn.Module, view: ScoringView, batch_size: int, num_workers: int
) -> Dict[str, np.ndarray]:
    """Score all images of a view. Nothing about the models or the random generators changes.

    Images are shared out between processes and each score is computed by one of them, so that the result is the same
    for any number of processes.

    Args:
        scorer (Scorer): The scorer.
        model (nn.Module): The quantized model, not wrapped for distributed training.
        teacher (nn.Module): The full-precision model.
        view (ScoringView): The images.
        batch_size (int): Images per batch and process.
        num_workers (int): Workers of the data loader.

    Returns:
        Dict[str, np.ndarray]: Score columns, float64, each of shape (len(view),).
    """
    rank, world_size = get_dist_info()
    mine = view.by_shape[rank::world_size]
    columns = {name: torch.zeros(len(view), dtype=torch.float64) for name in scorer.columns}
    with pure_evaluation(model, teacher):
        loader = DataLoader(view, batch_size, sampler=mine, num_workers=num_workers, collate_fn=pseudo_collate)
        for number, batch in enumerate(loader):
            positions = mine[number * batch_size : (number + 1) * batch_size]
            for members, inputs, data_samples in split_by_padded_shape(model, batch):
                where = torch.tensor([positions[member] for member in members])
                for name, scores in scorer(model, teacher, inputs, data_samples).items():
                    columns[name][where] = scores.double().cpu()
    for column in columns.values():
        all_reduce(column)  # each entry is set by one process and zero in the others: the sum is exact
    return {name: column.numpy() for name, column in columns.items()}


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
