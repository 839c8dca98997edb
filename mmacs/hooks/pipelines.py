"""The deterministic pipeline of a run, from its config."""

from typing import Any, Dict, List, Optional

from mmengine.config import Config

from mmacs.coreset.view import scoring_pipeline
from mmacs.errors import MmacsError


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
