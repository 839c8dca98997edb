"""Reports at the end of a run, which ``report=True`` of :class:`mmacs.CoresetHook` and others asks for.

Those hooks know these by their names alone, so that training needs nothing of what draws.
"""

from pathlib import Path
from typing import Callable

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.hooks.coreset_hook import CoresetHook
from mmacs.hooks.run import unwrapped
from mmacs.registry import HOOKS
from mmacs.utils.distributed import on_main
from mmacs.utils.errors import MmacsError, reason
from mmacs.utils.progress import phase


@HOOKS.register_module()
class CoresetReportHook(Hook):
    """Writes what the models find in some images, and the page of :func:`~.coreset_report.page.write_report`."""

    priority = 'LOWEST'  # after the last round, validation and summary are on disk

    def after_train(self, runner: Runner) -> None:
        """Write the report in the main process."""
        _written(runner, 'coreset', lambda: self._write(runner))

    def _write(self, runner: Runner) -> Path:
        from mmacs.visualization.coreset_report.page import write_predicted_report, write_report  # matplotlib is slow

        work_dir = Path(runner.work_dir)
        try:
            return write_predicted_report(work_dir, unwrapped(runner), _scored_images(runner))
        except Exception as error:  # of the model, or of a pipeline that is good enough for scoring alone
            why = f'What the models find in these images is not known: {reason(error)}.'
            page = write_report(work_dir, no_predictions=why)  # raises what is wrong with the rounds
            runner.logger.warning(
                f'The report of the coreset has no predictions: {reason(error)}',
                exc_info=not isinstance(error, MmacsError),
            )
            return page


@HOOKS.register_module()
class QuantizationReportHook(Hook):
    """Writes what quantization does to each layer, as ``mmacs report quantization`` does."""

    priority = 'LOWEST'

    def after_train(self, runner: Runner) -> None:
        """Write the report in the main process."""
        _written(runner, 'quantization', lambda: self._write(runner))

    def _write(self, runner: Runner) -> Path:
        from mmacs.evaluation.layers import measure_layers
        from mmacs.visualization.quantization_report import write_report

        return write_report(measure_layers(runner), Path(runner.work_dir) / 'quant_report')


def _scored_images(runner: Runner) -> DistinctImages:
    """Returns the training images as rounds see them: a config may have a pipeline for scoring alone."""
    found = (hook.run for hook in runner.hooks if isinstance(hook, CoresetHook) and hook.run is not None)
    run = next(found, None)
    if run is None:
        raise MmacsError('the run has no CoresetHook that scores images')
    return run.engine.data.images


def _written(runner: Runner, what: str, write: Callable[[], Path]) -> None:
    """Write a report and say where it is; a run that is complete doesn't fail for one that can't be written."""
    try:
        with phase(f'report of the {what}'):
            path = on_main(write)
        runner.logger.info(f'Report of the {what}: {path}')
    except Exception as error:
        runner.logger.error(
            f'The report of the {what} could not be written: {reason(error)}',
            exc_info=not isinstance(error, MmacsError),  # what the user can't put right keeps its traceback
        )
