"""What a run depends on, as a hash: runs of the same hash need not be made twice, on whatever machine."""

import hashlib
import json
from pathlib import Path
from typing import Any, Dict

from mmengine.config import Config

from mmacs.cli.comparison.cells import Cell, kind_of
from mmacs.coreset.presets import preset
from mmacs.utils.errors import MmacsError
from mmacs.version import __version__

# How a run is made, which changes its seconds at most
_HOW = ('work_dir', 'launcher', 'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor', 'cache_dir')


def settings_of(cfg: Config, cell: Cell, data: str) -> str:
    """Returns the hash of what a run depends on: config, checkpoint, data, meaning of the preset, version of mmacs.

    Args:
        cfg (Config): From :func:`mmacs.cli.comparison.cells.cell_config`.
        cell (Cell): The run.
        data (str): From :func:`mmacs.cli.comparison.data.read_data`.

    Raises:
        MmacsError: If the checkpoint cannot be read.
    """
    settings: Dict[str, Any] = _without(cfg.to_dict())
    settings.update(stage=cell.stage, data=data, mmacs=__version__)  # whose defaults the config leaves unsaid
    hook = cfg.default_hooks.get('coreset')
    if hook is not None:
        settings['meaning'] = preset(hook.preset, kind_of(cfg))
    start = settings.get('load_from')
    if isinstance(start, str) and start and '://' not in start:
        settings['load_from'] = _contents(start)
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _without(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without(value) for key, value in part.items() if key not in _HOW}
    return [_without(one) for one in part] if isinstance(part, (list, tuple)) else part


_hashes: Dict[Any, str] = {}  # of checkpoints, by path, size and time


def _contents(path: str) -> str:
    try:
        state = Path(path).stat()
        key = (path, state.st_size, state.st_mtime_ns)
        if key not in _hashes:
            _hashes[key] = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise MmacsError(
            f'cannot read the checkpoint {path} ({error.strerror}): train the config that ends with it first, or name '
            f'another one'
        ) from error
    return _hashes[key]
