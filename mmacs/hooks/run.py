"""What the hooks ask of a run: its model, its sampler, its deterministic pipeline."""

from typing import Any, Dict, List, Optional

from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.view import scoring_pipeline
from mmacs.errors import MmacsError


def unwrapped(runner: Runner) -> nn.Module:
    """The model itself, without a distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def coreset_sampler(runner: Runner) -> Optional[CoresetSampler]:
    """The coreset sampler of the training data, also where a batch sampler holds it; None if there is none."""
    loader = runner.train_dataloader
    samplers = (loader.sampler, getattr(loader.batch_sampler, 'sampler', None))
    return next((sampler for sampler in samplers if isinstance(sampler, CoresetSampler)), None)


def deterministic_pipeline(cfg: Config) -> List[Dict[str, Any]]:
    """The validation (or test) pipeline of a config with annotations loaded as for training.

    Raises:
        MmacsError: If the config has no validation or test data to take a pipeline from.
    """
    test = _find_pipeline(cfg.get('val_dataloader')) or _find_pipeline(cfg.get('test_dataloader'))
    if test is None:
        raise MmacsError('no val_dataloader or test_dataloader to take a deterministic pipeline from')
    return scoring_pipeline(_find_pipeline(cfg.train_dataloader) or [], test)


def _find_pipeline(cfg: Any) -> Optional[List[Dict[str, Any]]]:
    """The pipeline of the innermost data set of a data loader's config, or None."""
    if isinstance(cfg, (list, tuple)):
        return next((found for found in map(_find_pipeline, cfg) if found), None)
    if not isinstance(cfg, dict):
        return None
    for key in ('dataset', 'datasets'):
        found = _find_pipeline(cfg.get(key))
        if found:
            return found
    return cfg.get('pipeline')
