"""What a command shows on the screen: not what MMEngine and others say in each run, which the log's file keeps."""

import logging
import re
import warnings
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, Iterator, Pattern, Union

from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmacs.utils.details import DETAIL
from mmacs.utils.replaced import replaced

# MMEngine's, which nobody acts on while a run begins; the summary names what matters of them
_FILE_ALONE = re.compile(
    r'\n-+\nSystem environment:|Config:\n|Hooks will be executed in the following order|'
    r'Distributed training is not used, all SyncBatchNorm|Checkpoints will be saved to |Load checkpoint from |'
    r'[\w.]+ is skipped since its requires_grad=False|'  # for each weight that is frozen, or that a quantizer replaces
    r'Exp name: |\w+_mAP_copypaste: |'  # in each epoch; the metrics are said twice
    # of backends that MMEngine itself asks for
    r'"FileClient" will be deprecated|"HardDiskBackend" is the alias'
)

# Printed by libraries, and in no log, by the module whose ``print`` says it
_CHATTER = {
    # an import of a data service that MMDetection's successor tries; a line that MMEngine also logs
    'mmengine.logging.logger': re.compile(r'Could not import OneDL|Loads checkpoint by '),
    'pycocotools.coco': re.compile(r'loading annotations|Loading and preparing|creating index|index created|Done|DONE'),
    'pycocotools.cocoeval': re.compile(r'Running per image|Evaluate annotation|Accumulating|DONE'),
}


def leave_out_chatter() -> None:
    """Keeps off the screen what libraries print in each run and nobody can act on; results that they print stay.

    Call it before they are imported.
    """
    # of a metric that the config doesn't name
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed', UserWarning)
    for name, pattern in _CHATTER.items():
        with suppress(ImportError):
            vars(import_module(name))['print'] = _Print(pattern)


class _Print:
    """Prints all but lines that begin with a pattern."""

    def __init__(self, pattern: Pattern[str]) -> None:
        self._pattern = pattern

    def __call__(self, *values: Any, **settings: Any) -> None:
        if not (values and self._pattern.match(str(values[0]))):
            print(*values, **settings)


@contextmanager
def short_screen(log_level: Union[int, str] = 'INFO') -> Iterator[None]:
    """Keeps environment, config, hooks and tables of layers of runners that are built inside off the screen.

    They go to the log's file, as ever.

    Args:
        log_level (int or str): Level of the runner's logger; ``'DEBUG'`` shows all.
    """
    level = logging.getLevelName(log_level) if isinstance(log_level, str) else log_level
    if isinstance(level, int) and level <= logging.DEBUG:
        yield
        return
    build = Runner.build_logger

    def build_short(runner: Runner, *args: Any, **kwargs: Any) -> MMLogger:
        logger = build(runner, *args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(_shown)
        return logger

    with replaced(Runner, 'build_logger', build_short):
        yield


def _shown(record: logging.LogRecord) -> bool:
    return not getattr(record, DETAIL, False) and _FILE_ALONE.match(record.getMessage()) is None
