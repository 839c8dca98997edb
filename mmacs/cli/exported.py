"""An exported file in the place of a config's model."""

from typing import Any, Optional

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from mmacs.cli.runs import require_one_process
from mmacs.datasets.class_names import require_same
from mmacs.hooks.run import unwrapped
from mmacs.utils.type_names import type_path

_ENDINGS = ('EMAHook',)  # hooks that follow weights, of which an exported file has none


def put_exported(cfg: Config, file: str, backend: Optional[str]) -> None:
    """Have a config test an exported file with its own data, metrics and visualizers, in place.

    Args:
        cfg (Config): The config that the file's model was trained with.
        file (str): The exported file.
        backend (str, optional): The runtime; None for that which the file is for.

    Raises:
        MmacsError: If several processes are to share the work.
    """
    require_one_process(cfg, f'the evaluation of {file}')
    cfg.model = ConfigDict(type='mmacs.ExportedModel', file=file, backend=backend)
    cfg.load_from, cfg.resume = None, False
    if isinstance(cfg.get('default_hooks'), dict):
        for name in [name for name, hook in cfg.default_hooks.items() if _is_of_training(hook)]:
            del cfg.default_hooks[name]
    if isinstance(cfg.get('custom_hooks'), list):
        cfg.custom_hooks = [hook for hook in cfg.custom_hooks if not _is_of_training(hook)]


def require_classes(runner: Runner) -> None:
    """Compare the classes of an exported file with those of the test data.

    Raises:
        MmacsError: If they differ in names, order or number.
    """
    theirs = unwrapped(runner).metadata.classes
    ours = getattr(runner.test_dataloader.dataset, 'metainfo', {}).get('classes')
    if theirs and ours:
        require_same(list(theirs), 'the exported file', list(ours), 'test_dataloader')


def _is_of_training(hook: Any) -> bool:
    kind = type_path(hook.get('type')) if isinstance(hook, dict) else ''
    return kind.startswith('mmacs.') or kind.endswith(_ENDINGS)
