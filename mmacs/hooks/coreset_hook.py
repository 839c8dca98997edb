"""Every R epochs: score all images, choose the coreset, tell the sampler."""

import json
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import numpy as np
import torch
from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmacs.coreset.sampler import CoresetSampler
from mmacs.coreset.schedules import beta as beta_at
from mmacs.coreset.scores import NORMALISATIONS, importance
from mmacs.coreset.scoring import score_images
from mmacs.coreset.selectors import class_balanced_top_k, digest, top_k
from mmacs.coreset.view import ScoringView
from mmacs.errors import MmacsError, unknown_name
from mmacs.files import atomic_path
from mmacs.hooks.run import coreset_sampler, deterministic_pipeline, unwrapped
from mmacs.hooks.teacher import run_teacher
from mmacs.registry import HOOKS, SCORERS, find

STATE_KEY = 'mmacs_coreset'


@HOOKS.register_module()
class CoresetHook(Hook):
    """Adaptive coreset selection (Huang et al. 2024, arXiv 2306.07215) for an epoch-based run.

    At epochs 0, R, 2R, ... every training image is scored by the quantized model's own error (EVS) and by its
    disagreement with the full-precision model (DS), and until the next round the :class:`mmacs.CoresetSampler`
    samples those of highest importance. Each round is logged, written to ``<work dir>/coreset/round_<n>.npz``
    (indices, image ids and scores), and travels in the checkpoint.

    The full-precision model, the teacher, is made of the weights that the run starts from, and kept in
    ``<work dir>/teacher.pth`` for a resumed run.

    Args:
        scorer (dict): Config of a scorer, such as ``dict(type='mmacs.DenseDetectionScorer')``.
        interval (int): Epochs between rounds, R. Defaults to 10.
        beta (str or float): Schedule of the weight of EVS, see :func:`mmacs.coreset.beta`. Defaults to ``'cosine'``.
        normalisation (str, optional): ``'rank'``, ``'minmax'`` or ``'none'``; None takes the scorer's own.
        class_balanced (bool): Whether each class keeps its share; for images with one label. Defaults to False.
        pipeline (list, optional): Deterministic pipeline to score under, with annotations; None makes it of the
            validation pipeline and the loading transforms of the training pipeline.
        batch_size (int, optional): Images per scoring batch; None takes that of training.

    Raises:
        MmacsError: If an argument is out of range or unknown.
    """

    priority = 'VERY_HIGH'  # before the timer starts, so that iterations aren't charged for a round

    def __init__(
        self,
        scorer: Dict[str, Any],
        interval: int = 10,
        beta: Union[str, float] = 'cosine',
        normalisation: Optional[str] = None,
        class_balanced: bool = False,
        pipeline: Optional[List[Dict[str, Any]]] = None,
        batch_size: Optional[int] = None,
    ) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise MmacsError(f'interval must be a whole number of epochs, at least 1, got {interval!r}')
        scorer = dict(scorer)
        if 'type' not in scorer:
            raise MmacsError("scorer needs a type, such as 'mmacs.DenseDetectionScorer'")
        self.scorer = find(SCORERS, scorer.pop('type'))(**scorer)
        self.normalisation = normalisation or self.scorer.normalisation
        if self.normalisation not in NORMALISATIONS:
            raise unknown_name('normalisation', self.normalisation, NORMALISATIONS)
        beta_at(beta, 0, 1)  # names its mistakes now, not after the first scoring pass
        self.interval = interval
        self.beta = beta
        self.class_balanced = class_balanced
        self.pipeline = pipeline
        self.batch_size = batch_size
        self.selection_seconds = 0.0
        self.training_seconds = 0.0
        self._resumed: Optional[Dict[str, Any]] = None
        self._round: Dict[str, torch.Tensor] = {}

    # ---------------------------------------------------------------- what the run calls
    def before_train(self, runner: Runner) -> None:
        """Find the sampler, make the teacher, and take up a resumed run's coreset."""
        self._sampler = self._find_sampler(runner)
        model = unwrapped(runner)
        self.scorer.check(model)
        self._view = ScoringView(runner.train_dataloader.dataset, self.pipeline or deterministic_pipeline(runner.cfg))
        self._ids = np.asarray([self._view.image_id(position) for position in range(len(self._view))])
        self._labels = self._single_labels() if self.class_balanced else None
        if runner.iter == 0:
            self._teacher, self._fingerprint = run_teacher(runner)
        else:
            self._resume(runner)
            runner.logger.info(
                f'Resumed the coreset chosen at epoch {self._round["round_epoch"] + 1}, '
                f'digest {digest(self._sampler.indices)}.'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Hold a round if one is due."""
        if runner.epoch % self.interval == 0:
            start = time.perf_counter()
            self._select(runner, start)
        self._epoch_start = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        """Add up the seconds spent on training."""
        self.training_seconds += time.perf_counter() - self._epoch_start

    def after_train(self, runner: Runner) -> None:
        """Log and write where the time went."""
        runner.logger.info(
            f'Training took {self.training_seconds:.1f} s, coreset selection {self.selection_seconds:.1f} s.'
        )
        self._write_summary(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the coreset into the checkpoint, as tensors and plain values."""
        checkpoint[STATE_KEY] = {
            **self._round,
            'seed': self._sampler.seed,
            'teacher': self._fingerprint,
            'images': len(self._view),
            'selection_seconds': self.selection_seconds,
            'training_seconds': self.training_seconds,
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Keep the coreset of a checkpoint until it is known whether the run is resumed."""
        self._resumed = checkpoint.get(STATE_KEY)

    # ---------------------------------------------------------------- parts
    def _find_sampler(self, runner: Runner) -> CoresetSampler:
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise MmacsError(f'CoresetHook needs an EpochBasedTrainLoop, not {type(runner.train_loop).__name__}')
        sampler = coreset_sampler(runner)
        if sampler is None:
            raise MmacsError("CoresetHook needs train_dataloader.sampler=dict(type='mmacs.CoresetSampler', fraction=.)")
        return sampler

    def _single_labels(self) -> np.ndarray:
        labels = [self._view.info(position).get('gt_label') for position in range(len(self._view))]
        if any(label is None or np.size(label) != 1 for label in labels):
            raise MmacsError('class_balanced needs one label per image, which this data set does not have')
        return np.asarray(labels).reshape(-1)

    def _resume(self, runner: Runner) -> None:
        state = self._resumed
        if state is None:
            raise MmacsError('cannot resume: the checkpoint was written by a run without CoresetHook')
        if state['images'] != len(self._view):
            raise MmacsError(
                f'cannot resume: the data set had {state["images"]} images when the checkpoint was written and now has '
                f'{len(self._view)}'
            )
        self._teacher, self._fingerprint = run_teacher(runner, state['teacher'])
        self.selection_seconds, self.training_seconds = state['selection_seconds'], state['training_seconds']
        self._round = {key: state[key] for key in ('indices', 'evs', 'ds', 'round_epoch')}
        self._sampler.seed = state['seed']
        self._sampler.set_indices(self._round['indices'].numpy())

    def _select(self, runner: Runner, start: float) -> None:
        runner.logger.info(f'Scoring {len(self._view)} images ...')
        loader = runner.train_dataloader
        batch_size = self.batch_size or loader.batch_size or loader.batch_sampler.batch_size
        columns = score_images(
            self.scorer, unwrapped(runner), self._teacher, self._view, batch_size, loader.num_workers
        )
        beta = beta_at(self.beta, runner.epoch, runner.max_epochs)
        scores = importance(columns['evs'], columns['ds'], beta, self.normalisation)
        positions = self._view.positions
        if self.class_balanced:
            chosen = class_balanced_top_k(scores[positions], self._labels[positions], self._sampler.size)
        else:
            chosen = top_k(scores[positions], self._sampler.size)
        digests = all_gather_object(digest(chosen))
        if len(set(digests)) > 1:
            raise MmacsError(f'processes chose different coresets: {digests}')
        before = self._sampler.indices
        self._sampler.set_indices(chosen)
        self._round = {
            'indices': torch.from_numpy(chosen),
            'evs': torch.from_numpy(columns['evs']),
            'ds': torch.from_numpy(columns['ds']),
            'round_epoch': runner.epoch,
        }
        seconds = time.perf_counter() - start
        self.selection_seconds += seconds
        facts = {
            'fraction': self._sampler.fraction,
            'images': len(chosen),
            'seconds': seconds,
            'evs': columns['evs'].mean(),
            'ds': columns['ds'].mean(),
            'beta': beta,
        }
        if before is not None:
            facts['overlap'] = len(np.intersect1d(before, chosen)) / len(chosen)
        self._report(runner, facts, digests[0])
        if is_main_process():
            self._write_round(runner, scores)
        barrier()

    def _report(self, runner: Runner, facts: Dict[str, float], chosen: str) -> None:
        overlap = f', overlap with the last round {facts["overlap"]:.1%}' if 'overlap' in facts else ''
        runner.logger.info(
            f'Coreset for epochs {runner.epoch + 1} to {min(runner.epoch + self.interval, runner.max_epochs)}: '
            f'{facts["images"]} of {len(self._view.positions)} images ({facts["fraction"]:.1%}) in '
            f'{facts["seconds"]:.1f} s, mean EVS {facts["evs"]:.4f}, mean DS {facts["ds"]:.4f}, '
            f'beta {facts["beta"]:.3f}{overlap}, digest {chosen}'
        )
        runner.visualizer.add_scalars({f'coreset/{name}': value for name, value in facts.items()}, step=runner.epoch)

    def _write_round(self, runner: Runner, scores: np.ndarray) -> None:
        number = runner.epoch // self.interval
        with atomic_path(Path(runner.work_dir) / 'coreset' / f'round_{number:03d}.npz') as path:
            np.savez_compressed(
                path,
                epoch=runner.epoch,
                indices=self._sampler.indices,
                positions=self._view.positions,
                image_ids=self._ids,
                evs=self._round['evs'].numpy(),
                ds=self._round['ds'].numpy(),
                importance=scores,
            )

    def _write_summary(self, runner: Runner) -> None:
        if is_main_process():
            with atomic_path(Path(runner.work_dir) / 'coreset' / 'summary.json') as path:
                summary = {
                    'fraction': self._sampler.fraction,
                    'images': self._sampler.size,
                    'training_seconds': round(self.training_seconds, 3),
                    'selection_seconds': round(self.selection_seconds, 3),
                }
                path.write_text(json.dumps(summary, indent=2) + '\n')
