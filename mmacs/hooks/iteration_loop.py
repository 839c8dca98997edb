"""The stream of batches of an iteration-based run: passes over a coreset that may change at any iteration."""

from collections import deque
from itertools import islice
from typing import Any, Callable, Dict, Iterator, Optional

from mmengine.runner import IterBasedTrainLoop
from torch.utils.data import DataLoader

from mmacs.coreset.sampler import CoresetSampler
from mmacs.utils.errors import MmacsError


class CoresetIterator:
    """Endless batches of a coreset, in place of the iterator of MMEngine's ``IterBasedTrainLoop``.

    A pass shows the coreset once, in the order that the sampler gives for the pass's number as its epoch. The next
    pass begins when one ends, and at once when the coreset changed: batches that workers have loaded ahead of the old
    coreset are then dropped, so that none of it is trained on any more. Workers that persist live on.

    :meth:`load_state_dict` takes up a stream in the middle of a pass. Batches already taken are left out by their
    indices, no image is loaded for them, and the order is that of the uninterrupted run. This holds for any batch
    sampler that gives the same batches for the same order of images, and that is back in its first state once it was
    iterated to the end, as epoch-based training requires too. State counts batches of one process: where a run is
    resumed with another number of processes or another batch size, the coreset and later passes stay what they were,
    but the rest of the pass that was interrupted is another part of the coreset.

    Args:
        loader (DataLoader): Loader of the training data.
        sampler (CoresetSampler): Its sampler, also where a batch sampler holds it.
        before_batch (Callable): Called before each batch; tells whether it gave the sampler another coreset.
        before_pass (Callable, optional): Called with the number of each new pass, from 0, before its order is fixed;
            it may give the sampler another coreset. Not called for a pass that :meth:`load_state_dict` takes up.

    Attributes:
        passes (int): Passes begun, and so the number of the next one.
        taken (int): Batches taken in the current pass.
    """

    def __init__(
        self,
        loader: DataLoader,
        sampler: CoresetSampler,
        before_batch: Callable[[], bool],
        before_pass: Optional[Callable[[int], None]] = None,
    ) -> None:
        self._loader = loader
        self._sampler = sampler
        self._before_batch = before_batch
        self._before_pass = before_pass
        self._iterator: Optional[Iterator[Any]] = None
        self._replayed = 0
        self.passes = 0
        self.taken = 0

    def install(self, loop: IterBasedTrainLoop) -> None:
        """Put this in place of a loop's own iterator; to be called in ``before_train``.

        A resumed loop then moves its iterator to where the run stood: by ``skip_iter``, or, in MMEngine 0.10.7 and
        before, by one ``next`` for each iteration of the past. Both do nothing here, since the state says where.
        """
        skips = hasattr(loop.dataloader_iterator, 'skip_iter') or getattr(loop, 'fast_forward_on_resume', False)
        self._replayed = 0 if skips else loop.iter
        loop.dataloader_iterator = self

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing; a resumed loop calls it, and :meth:`load_state_dict` has done the work."""

    def state_dict(self) -> Dict[str, int]:
        """Returns where the stream stands."""
        return {'passes': self.passes, 'taken': self.taken}

    def load_state_dict(self, state: Dict[str, int]) -> None:
        """Go on from where a stream stood; the sampler must have the coreset of that time before the next batch."""
        self.passes, self.taken = state['passes'], state['taken']
        self._iterator = None

    def __iter__(self) -> 'CoresetIterator':
        return self

    def __next__(self) -> Any:
        """Returns the next batch.

        Raises:
            MmacsError: If a pass over the coreset gives no batch at all.
        """
        if self._replayed:
            self._replayed -= 1
            return None
        if self._before_batch() or self.passes == 0:
            self._drop_rest()
            self._begin_pass()
        elif self._iterator is None:
            self._resume_pass()
        try:
            batch = next(self._iterator)
        except StopIteration:
            self._begin_pass()
            try:
                batch = next(self._iterator)
            except StopIteration:
                raise MmacsError(
                    'the coreset is smaller than one batch, which drop_last drops: '
                    'lower train_dataloader.batch_size, raise fraction, or set drop_last=False'
                ) from None
        self.taken += 1
        return batch

    def _begin_pass(self) -> None:
        self._iterator = None  # ends workers that don't persist before others start
        number = self.passes
        if self._before_pass is not None:
            self._before_pass(number)
        self.passes, self.taken = number + 1, 0
        self._sampler.set_epoch(number)
        self._iterator = iter(self._loader)

    def _resume_pass(self) -> None:
        self._drop_rest()
        self._sampler.set_epoch(self.passes - 1)
        loader = self._loader
        rest = DataLoader(
            loader.dataset,
            batch_sampler=list(islice(loader.batch_sampler, self.taken, None)),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
        )
        self._iterator = iter(rest)

    def _drop_rest(self) -> None:
        """Bring the batch sampler back to its first state.

        One that groups images by shape holds images back until they fill a batch; of a pass that ended early, or that
        MMEngine began when it built the loop, they would come up in the next pass.
        """
        self._iterator = None
        deque(self._loader.batch_sampler, maxlen=0)
