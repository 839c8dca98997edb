"""The first thing that a run says: what it trains or tests, on what, from where, into which folder."""

from pathlib import Path
from typing import Dict, List

import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmacs.hooks.run import coreset_sampler, unwrapped
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.version import __version__

# rows in their order; a hook adds some by a method ``summary(runner)``, which returns texts by row
ROWS = (
    'model',
    'recipe',
    'starts from',
    'training data',
    'coreset',
    'chosen by',
    'rounds',
    'training',
    'validation data',
    'test data',
    'seed',
    'cost',
    'work dir',
    'whole config',
    'whole log',
)


class SummaryHook(Hook):
    """Logs some fifteen lines before a run begins, see :func:`summarise`."""

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._done = False

    def before_run(self, runner: Runner) -> None:
        """Logs the summary, where this is the first that the runner is asked for."""
        if self._done:
            return
        self._done = True
        rows = _rows(runner)
        for hook in runner.hooks:
            if hasattr(hook, 'summary'):
                rows.update(hook.summary(runner))
        what = 'trains' if _trains(runner) else 'evaluates'
        width = max(map(len, rows)) + 2
        lines = [f'  {name:{width}}{rows[name]}' for name in ROWS if name in rows]
        title = f'mmacs {__version__} {what} {type(unwrapped(runner)).__name__}'
        runner.logger.info('\n'.join([title, *lines]))


def summarise(runner: Runner) -> None:
    """Registers a run's :class:`SummaryHook`, once; to be called in ``before_run`` by a hook of a higher priority."""
    if not any(isinstance(hook, SummaryHook) for hook in runner.hooks):
        runner.register_hook(SummaryHook())


def _trains(runner: Runner) -> bool:
    return isinstance(runner._train_loop, BaseLoop)


def _rows(runner: Runner) -> Dict[str, str]:
    rows = {
        'model': _model(runner),
        'recipe': 'none: full precision',
        'starts from': _start(runner),
        'seed': str(runner.seed),
        'work dir': str(Path(runner.work_dir).absolute()),
    }
    if _trains(runner):
        rows['training data'] = _data(runner.train_dataloader)
        rows['training'] = _training(runner)
        sampler = coreset_sampler(runner)
        if sampler is not None:
            mean = ' in the mean' if sampler.schedule is not None else ''
            share = f'{100 * sampler.fraction:.3g} % of {len(sampler.dataset)}'
            rows['coreset'] = f'{sampler.mean_size} images in each epoch{mean}, {share}'
    for name, loop in (('validation data', runner._val_loop), ('test data', runner._test_loop)):
        if isinstance(loop, BaseLoop):
            rows[name] = _data(loop.dataloader)
    if runner.cfg.filename is not None:
        rows['whole config'] = str(Path(runner.work_dir).absolute() / Path(runner.cfg.filename).name)
    if runner.logger.log_file is not None:
        rows['whole log'] = f'{Path(runner.logger.log_file).absolute()}, with versions, config and hooks'
    return rows


def _model(runner: Runner) -> str:
    model = unwrapped(runner)
    found = [getattr(model, name, None) for name in ('backbone', 'neck', 'rpn_head', 'roi_head', 'bbox_head', 'head')]
    parts = [type(part).__name__ for part in found if part is not None]
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else torch.device('cpu')
    where = torch.cuda.get_device_name(device) if device.type == 'cuda' else str(device)
    size = sum(parameter.numel() for parameter in parameters) / 1e6
    return f'{", ".join(parts) or type(model).__name__}; {size:.2f} M parameters; on {where}'


def _start(runner: Runner) -> str:
    resumed = runner._resume and (runner._load_from or latest_checkpoint(runner.work_dir))
    if resumed:
        return f'{resumed}, which is resumed'
    return str(runner._load_from or 'initial weights')


def _data(loader: DataLoader) -> str:
    """Such as ``'CocoDataset in data/coco: 117266 images, 80 classes; 2 workers'``."""
    dataset = loader.dataset
    while (inner := getattr(dataset, 'dataset', None)) is not None:
        dataset = inner
    root = getattr(dataset, 'data_root', None)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    place = f' in {root}' if root else ''
    many = f', {len(classes)} classes' if classes else ''
    workers = f'{loader.num_workers} worker{"" if loader.num_workers == 1 else "s"}'
    return f'{type(dataset).__name__}{place}: {len(loader.dataset)} images{many}; {workers}'


def _training(runner: Runner) -> str:
    loader, wrapper = runner.train_dataloader, runner.optim_wrapper
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    parts: List[str] = []
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        parts.append(f'{runner.max_iters} iterations')
    else:
        epochs = f'{runner.max_epochs} epoch{"" if runner.max_epochs == 1 else "s"}'
        parts.append(f'{epochs} of {len(loader)} iterations')
    if batch is not None:
        processes = f' in each of {runner.world_size} processes' if runner.world_size > 1 else ''
        parts.append(f'batches of {batch}{processes}')
    optimizer = getattr(wrapper, 'optimizer', None)
    if isinstance(optimizer, torch.optim.Optimizer):  # it is still its config where nothing is trained
        group = optimizer.param_groups[0]
        rate = group.get('initial_lr', group['lr'])  # schedules may have begun with less
        parts.append(f'{type(optimizer).__name__}, lr {rate:g}, {type(wrapper).__name__}')
    return '; '.join(parts)
