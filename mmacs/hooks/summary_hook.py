"""The first thing that a run says: what it trains or tests, on what, from where, into which folder."""

from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner

from mmacs.hooks.run import add_hook, coreset_sampler, unwrapped
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.version import __version__

# rows in their order; a SummarisedHook adds some
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


class SummarisedHook(Hook):
    """A hook that has something to say in the summary."""

    def summary(self, runner: Runner) -> Dict[str, str]:
        """Returns texts by row, see :data:`ROWS`."""
        raise NotImplementedError


class SummaryHook(Hook):
    """Logs some fifteen lines before a run begins, see :func:`summarise` and :func:`summarise_now`."""

    priority = 'NORMAL'

    def __init__(self) -> None:
        self._done = False
        self._waits = False  # for the checkpoint that is resumed

    def before_run(self, runner: Runner) -> None:
        """Logs the summary, unless a checkpoint is about to be resumed, which knows the seed of the run."""
        self._waits = _trains(runner) and _resumed(runner) is not None
        if not self._waits:
            self._log(runner, runner.seed)

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Logs the summary of a run that is resumed; MMEngine takes up the seed only after this."""
        if self._waits:
            seed = (checkpoint.get('meta') or {}).get('seed')
            self._log(runner, runner.seed if seed is None else seed)

    def _log(self, runner: Runner, seed: Optional[int]) -> None:
        """Logs the summary, where this is the first that the runner is asked for."""
        if self._done:
            return
        self._done = True
        rows = {**_rows(runner), 'seed': str(seed)}
        for hook in runner.hooks:
            if isinstance(hook, SummarisedHook):
                rows.update(hook.summary(runner))
        what = 'trains' if _trains(runner) else 'evaluates'
        width = max(map(len, rows)) + 2
        lines = [f'  {name:{width}}{rows[name]}' for name in ROWS if name in rows]
        title = f'mmacs {__version__} {what} {type(unwrapped(runner)).__name__}'
        runner.logger.info('\n'.join([title, *lines]))


def summarise(runner: Runner) -> None:
    """Registers a run's :class:`SummaryHook`, once; to be called before the run."""
    if not any(isinstance(hook, SummaryHook) for hook in runner.hooks):
        add_hook(runner, SummaryHook())


def summarise_now(runner: Runner) -> None:
    """Logs a run's summary if that was not done yet; to be called in ``before_run`` by a hook of any priority."""
    summarise(runner)
    next(hook for hook in runner.hooks if isinstance(hook, SummaryHook)).before_run(runner)


def _trains(runner: Runner) -> bool:
    return isinstance(runner._train_loop, BaseLoop)


def _rows(runner: Runner) -> Dict[str, str]:
    rows = {
        'model': _model(runner),
        'recipe': 'none: full precision',
        'starts from': _start(runner),
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
        loader = getattr(loop, 'dataloader', None)  # loops of other libraries may have several
        if isinstance(loop, BaseLoop) and loader is not None:
            rows[name] = _data(loader)
    if runner.cfg.filename is not None:
        rows['whole config'] = str(Path(runner.work_dir).absolute() / Path(runner.cfg.filename).name)
    log_file = getattr(runner.logger, 'log_file', None)  # a user's hook may have put another logger there
    if log_file is not None:
        rows['whole log'] = f'{Path(log_file).absolute()}, with versions, config and hooks'
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
    resumed = _resumed(runner)
    return str(runner._load_from or 'initial weights') if resumed is None else f'{resumed}, which is resumed'


def _resumed(runner: Runner) -> Optional[str]:
    """Returns the checkpoint that the run goes on from, None if it starts anew."""
    return (runner._load_from or latest_checkpoint(runner.work_dir)) if runner._resume else None


def _data(loader: Any) -> str:
    """Returns a text such as ``'CocoDataset in data/coco: 117266 images, 80 classes; 2 workers'``.

    What a loader that is not torch's does not tell is left out.
    """
    images, workers = _length(getattr(loader, 'dataset', None)), getattr(loader, 'num_workers', None)
    dataset = loader
    while (inner := getattr(dataset, 'dataset', None)) is not None:
        dataset = inner
    root = getattr(dataset, 'data_root', None)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    place = f' in {root}' if root else ''
    counts = [] if images is None else [f'{images} images']
    counts += [f'{len(classes)} classes'] if classes else []
    text = ': '.join(filter(None, (f'{type(dataset).__name__}{place}', ', '.join(counts))))
    return text if workers is None else f'{text}; {workers} worker{"" if workers == 1 else "s"}'


def _length(what: Any) -> Optional[int]:
    try:
        return len(what)
    except TypeError:  # a stream has none
        return None


def _training(runner: Runner) -> str:
    loader, wrapper = runner.train_dataloader, runner.optim_wrapper
    batches = (loader, getattr(loader, 'batch_sampler', None))
    batch = next(filter(None, (getattr(one, 'batch_size', None) for one in batches)), None)
    parts: List[str] = []
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        parts.append(f'{runner.max_iters} iterations')
    else:
        epochs, length = f'{runner.max_epochs} epoch{"" if runner.max_epochs == 1 else "s"}', _length(loader)
        parts.append(epochs if length is None else f'{epochs} of {length} iterations')
    if batch is not None:
        processes = f' in each of {runner.world_size} processes' if runner.world_size > 1 else ''
        parts.append(f'batches of {batch}{processes}')
    optimizer = getattr(wrapper, 'optimizer', None)
    if isinstance(optimizer, torch.optim.Optimizer):  # it is still its config where nothing is trained
        group = optimizer.param_groups[0]
        rate = group.get('initial_lr', group['lr'])  # schedules may have begun with less
        parts.append(f'{type(optimizer).__name__}, lr {rate:g}, {type(wrapper).__name__}')
    return '; '.join(parts)
