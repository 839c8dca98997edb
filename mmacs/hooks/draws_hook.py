"""What is random in training is a function of the seed and of where training stands, so that no state need be kept."""

from typing import Any, Dict, Iterator, List, Optional

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, Sampler

from mmacs.adapters.batch_sizes import batch_sizes, use_batch_sizes
from mmacs.adapters.mmengine.partners import mixing_transforms
from mmacs.datasets.items import Item, items, load_by_items
from mmacs.hooks.run import add_hook, agree_on_seed, coreset_sampler, unwrapped
from mmacs.utils.random_state import seed_generators
from mmacs.utils.random_streams import Purpose

STATE_KEY = 'mmacs_batch_sizes'


class DrawsHook(Hook):
    """Seeds each training step by (seed, iteration, process), and the items of samplers by (seed, epoch, index).

    :class:`mmacs.CoresetSampler` says itself what its items draw; other samplers are made to here. A step's seed is for
    what draws in the main process: batch augmentations, dropout, samplers of proposals. So a resumed run draws as the
    uninterrupted one, whether or not anything was evaluated in between.

    Hooks that need it call :func:`draw_by_step`.
    """

    def __init__(self) -> None:
        self._sizes: Optional[Dict[str, List[int]]] = None

    def before_train(self, runner: Runner) -> None:
        """Has the items of a sampler that is not ours say what they draw; says who takes partners from the coreset."""
        loader = runner.train_dataloader
        if coreset_sampler(runner) is None:
            _number_items(runner)
        else:
            *names, last = mixing_transforms(loader.dataset) or ['']
            if last:
                who = f'{", ".join(names)} and {last} take their' if names else f'{last} takes its'
                runner.logger.info(f'{who} partners from the coreset.')
        if self._sizes is not None and runner.iter > 0:
            use_batch_sizes(unwrapped(runner), self._sizes)
        self._sizes = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seeds the generators of this process."""
        seed = seed_generators(runner.seed, Purpose.STEP, runner.iter, get_rank())
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Puts the sizes that were drawn for coming batches into the checkpoint, where there are any."""
        sizes = batch_sizes(unwrapped(runner))
        if sizes:
            checkpoint[STATE_KEY] = sizes

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Keeps the sizes until it is known whether the run is resumed."""
        self._sizes = checkpoint.get(STATE_KEY)


def draw_by_step(runner: Runner) -> None:
    """Registers a run's :class:`DrawsHook`, once; to be called in ``before_run``, or before that."""
    if not any(isinstance(hook, DrawsHook) for hook in runner.hooks):
        add_hook(runner, DrawsHook())


def _number_items(runner: Runner) -> None:
    """Has a sampler that is not ours give items, where its loop begins to iterate only now."""
    loader, loop = runner.train_dataloader, runner.train_loop
    by_epoch = not isinstance(loop, IterBasedTrainLoop)
    batch_sampler = loader.batch_sampler
    sampler = getattr(batch_sampler, 'sampler', None)
    if sampler is None or isinstance(sampler, _Numbered):
        return
    has_begun = not by_epoch and not hasattr(loop.dataloader_iterator, 'skip_iter')  # MMEngine 0.10.7 and before
    if has_begun and loader.num_workers > 0 and not isinstance(sampler, (DefaultSampler, InfiniteSampler)):
        return  # what workers have taken of other samplers is not to be had again
    if isinstance(runner.cfg.get('train_dataloader'), dict):  # otherwise the seed is the user's
        agree_on_seed(runner, sampler)
    load_by_items(loader.dataset)
    # MMEngine takes what was seen out of the sampler without iterating over it, or leaves it out
    skips = (type(batch_sampler) is BatchSampler and hasattr(sampler, 'skip')) or getattr(
        loop, 'fast_forward_on_resume', False
    )
    taken = runner.iter * getattr(batch_sampler, 'batch_size', 0) if skips else 0
    seed = getattr(sampler, 'seed', None)
    batch_sampler.sampler = _Numbered(
        runner, sampler, runner.seed if seed is None else seed, len(loader.dataset), by_epoch, taken
    )
    if has_begun:
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)


class _Numbered(Sampler):
    """The items of a sampler, with the number of their epoch, or of their pass through the data where it has no end.

    Args:
        runner (Runner): The run.
        sampler (Sampler): What gives the indices of this process.
        seed (int): Of the items.
        num_images (int): Images of the data set, N.
        by_epoch (bool): Whether the loop counts epochs.
        taken (int): Indices that were taken before the first that the sampler will give.
    """

    def __init__(
        self, runner: Runner, sampler: Sampler, seed: int, num_images: int, by_epoch: bool, taken: int
    ) -> None:
        self._runner, self._sampler, self._seed = runner, sampler, seed
        self._images = np.arange(num_images)
        self._by_epoch, self._taken = by_epoch, taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__['_sampler'], name)  # batch samplers ask for the data set, loops set the epoch

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Item]:
        if self._by_epoch:
            yield from items(self._images, self._sampler, self._seed, self._runner.epoch)
            return
        rank, world_size = get_rank(), get_world_size()
        for index in self._sampler:
            number = (self._taken * world_size + rank) // len(self._images)
            self._taken += 1
            yield from items(self._images, [index], self._seed, number)
