"""What the hooks ask of a run: its model, its sampler, its deterministic pipeline."""

from typing import Any, Dict, Iterator, List, Optional, Union

from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.hooks import CheckpointHook, Hook, IterTimerHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Sampler

from mmacs.adapters.transforms import mixes_images
from mmacs.coreset.sampler import CoresetSampler
from mmacs.datasets.distinct_images import scoring_pipeline
from mmacs.utils.checkpoints import latest_checkpoint
from mmacs.utils.errors import MmacsError
from mmacs.utils.type_names import type_name


def unwrapped(runner: Runner) -> nn.Module:
    """Returns the model itself, without the wrappers of distributed training and test-time augmentation."""
    model = runner.model
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def share_done(runner: Runner, batch_idx: int) -> float:
    """Returns the share of a run that is done before an iteration, from 0 to 1.

    Of its epochs, the iterations of which may differ in number, or of its iterations.
    """
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        done, end = runner.epoch + batch_idx / max(len(runner.train_dataloader), 1), runner.max_epochs
    else:
        done, end = runner.iter, runner.max_iters
    return min(done / end, 1.0)


def coreset_sampler(runner: Runner) -> Optional[CoresetSampler]:
    """Returns the coreset sampler of the training data, also where a batch sampler holds it; None if there is none."""
    return _coreset_sampler_of(runner.train_dataloader)


def _coreset_sampler_of(loader: Any) -> Optional[CoresetSampler]:
    holders = (loader, getattr(loader, 'batch_sampler', None))
    samplers = (getattr(holder, 'sampler', None) for holder in holders)
    return next((sampler for sampler in samplers if isinstance(sampler, CoresetSampler)), None)


def require_coreset_sampler(runner: Runner) -> CoresetSampler:
    """Returns the coreset sampler of the training data.

    Raises:
        MmacsError: If there is none.
    """
    sampler = coreset_sampler(runner)
    if sampler is None:
        given = type(getattr(runner.train_dataloader, 'sampler', None)).__name__
        raise MmacsError(
            f"CoresetHook needs train_dataloader.sampler=dict(type='mmacs.CoresetSampler', fraction=0.1), and the "
            f'config has {given} there'
        )
    return sampler


def require_whole_evaluation(runner: Runner) -> None:
    """Requires that no coreset stands for the validation or test data, on which a metric would mean nothing.

    Raises:
        MmacsError: If one does.
    """
    for split in ('val', 'test'):
        loop = getattr(runner, f'_{split}_loop')
        if isinstance(loop, BaseLoop) and _coreset_sampler_of(getattr(loop, 'dataloader', None)) is not None:
            raise MmacsError(
                f'{split}_dataloader.sampler is mmacs.CoresetSampler, which is for training: metrics are of all '
                f"images, take dict(type='DefaultSampler', shuffle=False)"
            )


def agree_on_seed(runner: Runner, sampler: Sampler) -> None:
    """Give the samplers of all processes one seed, also where a run is resumed or seeds differ between processes.

    MMEngine draws a seed where none is given, builds the sampler, and only then restores that of a resumed run.
    """
    given = runner.cfg.train_dataloader.sampler.get('seed')
    seed = [runner.seed if given is None else given]
    broadcast_object_list(seed)
    sampler.seed = seed[0]


def resumed_from(runner: Runner) -> str:
    """Returns the checkpoint that a run was told to load or to go on from, or that its work dir notes."""
    return str(runner._load_from or latest_checkpoint(runner.work_dir) or 'the checkpoint')


def leave_out_of_timers(runner: Runner, seconds: float) -> None:
    """Has MMEngine's timer charge these seconds, which have just passed, to no iteration."""
    for hook in runner.hooks:
        if isinstance(hook, IterTimerHook) and hasattr(hook, 't'):  # it has no time before the first epoch
            hook.t += seconds


def add_hook(runner: Runner, hook: Union[Hook, Dict[str, Any]]) -> None:
    """Register a hook, also while the runner calls its hooks: it is called from the next call on.

    MMEngine goes through its own list. If the list grew before the hook that is being called, as it does where a user
    gives that a low priority, the new hook would be left out and others would be called twice.

    Args:
        runner (Runner): The run.
        hook (Hook or dict): The hook, or its config.
    """
    runner._hooks = list(runner.hooks)
    runner.register_hook(hook)


def report_at_end(runner: Runner, name: str) -> None:
    """Put a hook that writes a report at the end into a run that is about to train.

    Args:
        runner (Runner): The run.
        name (str): Name of a hook of :mod:`mmacs.visualization.report_hooks`, which hooks know by its name alone.
    """
    if not any(type(hook).__name__ == name for hook in runner.hooks):  # a runner may train twice
        add_hook(runner, {'type': f'mmacs.{name}'})


def saves_checkpoint_now(runner: Runner) -> bool:
    """Returns whether a checkpoint may follow this iteration of an iteration-based run."""
    savers = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook) and not hook.by_epoch)
    return any(hook.every_n_train_iters(runner, hook.interval) or hook.is_last_train_iter(runner) for hook in savers)


def refuse_mixed_images(cfg: Config, who: str) -> None:
    """Refuse training pipelines in which one image stands for several.

    Args:
        cfg (Config): The run's.
        who (str): Settings that need images as they are, and the verb: ``'harvest needs'``.

    Raises:
        MmacsError: If a transform mixes images; it is named.
    """
    for kind in training_transforms(cfg):
        if mixes_images(kind):
            raise MmacsError(f'{who} images that are not mixed in training, and {type_name(kind)} mixes them')


def training_transforms(cfg: Config) -> Iterator[Any]:
    """Returns the types of all transforms of the training data."""
    return _transforms(cfg.train_dataloader)


def _transforms(cfg: Any) -> Iterator[Any]:
    """Types of all transforms in the data sets of a data loader's config."""
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            yield from _transforms(item)
    elif isinstance(cfg, dict):
        yield from _types(cfg.get('pipeline'))
        for key in ('dataset', 'datasets'):
            yield from _transforms(cfg.get(key))


def _types(pipeline: Any) -> Iterator[Any]:
    """Types of the transforms of a pipeline, those inside of others (``RandomApply``, ``RandomChoice``) too."""
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from _types(step)
    elif isinstance(pipeline, dict):
        yield pipeline['type']
        yield from _types(pipeline.get('transforms'))


def deterministic_pipeline(cfg: Config) -> List[Dict[str, Any]]:
    """Returns the validation (or test) pipeline of a config with annotations loaded as for training.

    Raises:
        MmacsError: If the config has no validation or test data to take a pipeline from.
    """
    test = _find_pipeline(cfg.get('val_dataloader')) or _find_pipeline(cfg.get('test_dataloader'))
    if test is None:
        raise MmacsError(
            'no val_dataloader or test_dataloader to take a deterministic pipeline from: give the config one, with the '
            'pipeline of evaluation'
        )
    return scoring_pipeline(_find_pipeline(cfg.train_dataloader) or [], test)


def _find_pipeline(cfg: Any) -> Optional[List[Dict[str, Any]]]:
    """Returns the pipeline of the innermost data set of a data loader's config, or None."""
    if isinstance(cfg, (list, tuple)):
        return next((found for found in map(_find_pipeline, cfg) if found), None)
    if not isinstance(cfg, dict):
        return None
    for key in ('dataset', 'datasets'):
        found = _find_pipeline(cfg.get(key))
        if found:
            return found
    return cfg.get('pipeline')
