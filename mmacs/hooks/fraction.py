"""Tells a coreset sampler whose fraction changes how many epochs and how large batches there are."""

from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmacs.hooks.batches import require_a_batch
from mmacs.hooks.run import coreset_sampler
from mmacs.utils.errors import MmacsError


def plan_epochs(runner: Runner) -> None:
    """Has the sampler of a run follow the schedule of its fraction, if it has one and does not yet.

    Until then an epoch is as long as with the mean fraction, which is what MMEngine takes for the length of the run and
    its learning-rate schedules; both are right in the end, see :func:`mmacs.coreset.budget.fraction.epoch_sizes`.

    Args:
        runner (Runner): A run that is about to train.

    Raises:
        MmacsError: If it counts no epochs.
    """
    sampler = coreset_sampler(runner)
    if sampler is None or sampler.schedule is None or sampler.sizes is not None:
        return
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        raise MmacsError(
            f'fraction={sampler.schedule} is a schedule over epochs, and {type(runner.train_loop).__name__} counts '
            f'none: take an EpochBasedTrainLoop, or a number'
        )
    loader = runner.train_dataloader
    require_a_batch(loader)
    batch_size = loader.batch_size or loader.batch_sampler.batch_size
    sampler.plan(runner.max_epochs, batch_size * get_world_size(), len(loader))
    sizes = [str(size) for size in sampler.sizes.tolist()]
    listed = sizes if len(sizes) <= 20 else [*sizes[:10], '...', *sizes[-10:]]
    runner.logger.info(
        f'Images per epoch, in whole batches: {", ".join(listed)}; as many in all as with '
        f'fraction={sampler.fraction:g}.'
    )
