"""Whether data can be trained on in the batches that the config asks for: asked before training starts."""

import copy
import traceback

import torch
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader

from mmacs.coreset.sampler import CoresetSampler
from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.run import coreset_sampler, deterministic_pipeline, unwrapped
from mmacs.quantization import disabled
from mmacs.teacher.side_effects import without_side_effects
from mmacs.utils.errors import MmacsError

_ADVICE = 'take another fraction or train_dataloader.batch_size, or set train_dataloader.drop_last={}'


def require_batches(runner: Runner) -> None:
    """Requires that an epoch has a batch, and that its last one is no single image that BatchNorm cannot train on.

    Args:
        runner (Runner): A run that is about to train. If one image is left over, it is tried on a copy of the model.

    Raises:
        MmacsError: If training cannot work so.
    """
    loader = runner.train_dataloader
    sampler = coreset_sampler(runner) or loader.sampler
    if not isinstance(sampler, (CoresetSampler, DefaultSampler)):  # others may never end, or bring their own batches
        return
    require_a_batch(loader)
    plain = type(loader.batch_sampler) is BatchSampler and not loader.drop_last
    if plain and (len(sampler) - 1) % loader.batch_size == 0 and not _trains_on_one(runner):
        advice = _ADVICE.format(True) if loader.batch_size > 1 else 'take a larger train_dataloader.batch_size'
        raise MmacsError(
            f'the last batch of an epoch holds a single image ({len(sampler)} in batches of {loader.batch_size}), '
            f'which BatchNorm cannot train on here: {advice}'
        )


def require_a_batch(loader: DataLoader) -> None:
    """Requires that an epoch has a batch.

    Raises:
        MmacsError: If all images of a process are dropped, since they do not fill a batch.
    """
    if len(loader) == 0:
        raise MmacsError(
            f'an epoch has no batch: drop_last drops all images of each process, fewer than '
            f'train_dataloader.batch_size; {_ADVICE.format(False)}'
        )


def _trains_on_one(runner: Runner) -> bool:
    """Returns whether a forward in train mode works with one image."""
    model: nn.Module = unwrapped(runner)
    model.train()
    if not any(isinstance(module, _BatchNorm) and module.training for module in model.modules()):
        return True
    if runner.cfg.get('val_dataloader') is None and runner.cfg.get('test_dataloader') is None:
        return True  # there is no pipeline to try it with
    images = DistinctImages(runner.train_dataloader.dataset, deterministic_pipeline(runner.cfg))
    model = copy.deepcopy(model)
    with without_side_effects(), disabled(model):
        batch = model.data_preprocessor(pseudo_collate([images[0]]), False)
        try:
            model(**batch, mode='loss')
        except ValueError as error:
            *_, (last, _) = traceback.walk_tb(error.__traceback__)
            if last.f_code is torch.nn.functional._verify_batch_size.__code__:
                return False
            raise
    return True
