"""The process of one run of a comparison: ``python -m mmacs.cli.comparison.worker FOLDER``, which holds a task."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from mmacs import cli

TASK, RESULT = 'task.json', 'result.json'
KEYS = ('metrics', 'images', 'training_seconds', 'selection_seconds', 'coresets')  # of a result, and what it is of:
KEYS += ('settings', 'epochs', 'version', 'machine', 'threads', 'date')


def write_task(folder: Path, task: Dict[str, Any]) -> None:
    """Write what :func:`main` reads: ``grid``, ``cell``, ``epochs``, ``data`` and ``settings``."""
    from mmacs.utils.files import write_whole

    write_whole(folder / TASK, (json.dumps(task, default=dataclasses.asdict) + '\n').encode())


def read_result(folder: Path, settings: str) -> Optional[Dict[str, Any]]:
    """Returns what the process has written, None if that is nothing, or of other settings.

    Raises:
        MmacsError: If it is damaged.
    """
    from mmacs.utils.errors import MmacsError
    from mmacs.utils.json_file import read_object

    if not (folder / RESULT).is_file():
        return None
    result = read_object(folder / RESULT, 'result')
    if result.get('settings') != settings:
        return None
    if result.keys() != set(KEYS) or not isinstance(result['metrics'], dict):
        raise MmacsError(f'{folder / RESULT} is damaged: delete {folder}, and its run is made anew')
    return result


def main() -> None:
    """Make the run, going on from its last epoch if there is one, and write what came of it."""
    import datetime

    import torch
    from mmengine.device import get_device

    from mmacs.cli.comparison.cells import Cell, base_config, cell_config
    from mmacs.cli.comparison.grid import read_grid
    from mmacs.cli.comparison.identity import settings_of
    from mmacs.cli.comparison.measure import measure
    from mmacs.utils.errors import MmacsError
    from mmacs.utils.files import write_whole
    from mmacs.utils.json_file import read_object
    from mmacs.utils.timing import machine
    from mmacs.version import __version__

    folder = Path(sys.argv[1])
    task = read_object(folder / TASK, 'task')
    grid, cell = read_grid(task['grid']), Cell(**task['cell'])
    cfg = cell_config(grid, base_config(grid), cell, task['epochs'])
    if settings_of(cfg, cell, task['data']) != task['settings']:
        raise MmacsError(f'{task["grid"]}, or what it names, was changed while its runs were made: run it again')
    cfg.work_dir = os.fspath(folder)
    epochs = cfg.train_cfg.max_epochs if cell.stage == 'qat' else 0
    result = measure(cfg, cell.stage)
    result.update(
        settings=task['settings'],
        epochs=epochs,
        version=__version__,
        machine=machine(torch.device(get_device())),
        threads=torch.get_num_threads(),
        date=datetime.date.today().isoformat(),
    )
    write_whole(folder / RESULT, (json.dumps(result) + '\n').encode())


if __name__ == '__main__':
    cli.run(main)
