"""Trains a quantized model on what its full-precision teacher predicts, beside the labels."""

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Union

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from mmacs.distillation import Distiller
from mmacs.distillation.distiller import check_settings
from mmacs.hooks.cached_teacher import CachedTeacher
from mmacs.hooks.loaded_checkpoint import check_fit
from mmacs.hooks.run import unwrapped
from mmacs.hooks.teacher import run_teacher
from mmacs.registry import HOOKS, MODELS
from mmacs.teacher.model import as_teacher, fingerprint, full_precision_weights
from mmacs.utils.checks import require_switch
from mmacs.utils.errors import MmacsError, reason
from mmacs.utils.packaged_config import packaged_config

STATE_KEY = 'mmacs_distillation'


@HOOKS.register_module()
class DistillationHook(Hook):
    """Knowledge distillation: a quantized model learns to predict what a full-precision one does.

    - Classifiers: soft cross-entropy with the teacher's class probabilities on the same augmented images (Hinton et
      al. 2015), ``total = (1 - weight) * hard + weight * soft``. Huang et al. (2024) take ``weight=1``.
    - Detectors: ``total = hard + weight * (class + box_weight * box)``, where the teacher's confidence says which
      places count; the formula is that of :func:`mmacs.distillation.losses.detection_losses`. One-stage detectors at
      all places, two-stage ones at those of the RPN and at the student's RoIs, DETRs without denoising query by query.
    - With ``layers``, also the outputs of these layers are corrected towards the teacher's: the mean over layers of
      ``||f_q - f_T||^2 / ||f_T||^2`` (the idea is the cascaded layer correction of QuaRC, arXiv 2507.17768).

    The terms are logged as ``loss_distill_cls``, ``loss_distill_box`` and ``loss_correction``.

    Example::

        custom_hooks = [dict(type='mmacs.DistillationHook', weight=0.5, layers='backbone.layer*')]

    Args:
        weight (float): Of the distillation terms, above 0; for classifiers at most 1. Defaults to 0.5.
        temperature (float): Of the class distributions, above 0. Defaults to 1.0.
        form (str): ``'cross_entropy'``, or ``'kl'``, which is less by the teacher's entropy: the same gradients, and 0
            means agreement. Defaults to ``'cross_entropy'``.
        box_weight (float): Of the box term, relative to the class term. Defaults to 1.0.
        layers (str or Sequence[str], optional): Patterns of names of layers; ``*`` stands for anything but a dot.
        layer_weight (float): Of the correction. Defaults to 1.0.
        teacher (dict, optional): Another teacher: ``config``, a config file (also ``'mmdet::...'``) or the config of a
            model, and ``checkpoint``, a file or URL of its weights. It sees images that the student's data
            preprocessor has normalised. None takes the full-precision model that the run started from, also after a
            resume: the one that :class:`mmacs.CoresetHook` has.
        from_cache (bool): Whether the teacher's predictions are read from what the rounds of :class:`mmacs.CoresetHook`
            keep on disk, so that no teacher runs in training steps: for classifiers whose rounds score ``ds`` or
            ``kl``, as most presets do, without ``layers`` and ``teacher``, on images that are not mixed. What the
            teacher says of an image is then what it says of the view that is scored, that of the test pipeline,
            however the image is cropped and flipped in training: the "fixed teacher" of Beyer et al. (2021), who
            found it worse than one that sees what the student sees. Images that nothing is kept of, as in a warm-up,
            are computed before a pass over them. Defaults to False.

    Raises:
        MmacsError: If an argument is out of range or unknown.
    """

    priority = 'VERY_HIGH'  # detach before other hooks of the iteration, which may copy the model

    def __init__(
        self,
        weight: float = 0.5,
        temperature: float = 1.0,
        form: str = 'cross_entropy',
        box_weight: float = 1.0,
        layers: Optional[Union[str, Sequence[str]]] = None,
        layer_weight: float = 1.0,
        teacher: Optional[Dict[str, Any]] = None,
        from_cache: bool = False,
    ) -> None:
        require_switch('from_cache', from_cache)
        check_settings(weight, temperature, form, box_weight, layers, layer_weight, from_cache)
        if teacher is not None and not (isinstance(teacher, Mapping) and set(teacher) == {'config', 'checkpoint'}):
            raise MmacsError(f'teacher must be a dict of config and checkpoint, and nothing else, got {teacher!r}')
        if from_cache and teacher is not None:
            raise MmacsError(
                f'from_cache=True reads what is kept of the model that the run starts from, not of the teacher '
                f'{teacher["checkpoint"]!r}: leave out teacher or from_cache'
            )
        self.teacher = teacher
        self.from_cache = from_cache
        self.settings = dict(
            weight=weight,
            temperature=temperature,
            form=form,
            box_weight=box_weight,
            layers=layers,
            layer_weight=layer_weight,
        )
        self._resumed: Optional[Dict[str, Any]] = None
        self._cached: Optional[CachedTeacher] = None

    def before_train(self, runner: Runner) -> None:
        """Get the teacher."""
        model = unwrapped(runner)
        expected = self._expected_teacher() if runner.iter > 0 else None
        if self.teacher is None:
            teacher, self._fingerprint = run_teacher(runner, expected)
        else:
            teacher = build_teacher(model, **self.teacher)
            self._fingerprint = fingerprint(full_precision_weights(teacher))
            if expected not in (None, self._fingerprint):
                raise MmacsError(f'cannot resume: {self.teacher["checkpoint"]} is not the teacher that this run had')
        source = self._cached_logits if self.from_cache else teacher
        self._distiller = Distiller(model, source, same_start=self.teacher is None, **self.settings)
        self._cached = CachedTeacher(runner) if self.from_cache else None

    def _cached_logits(self, data_samples: List[Any], num_classes: int) -> Tensor:
        return self._cached.logits(data_samples, num_classes)

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Have the losses of this iteration extended."""
        if self._cached is not None:
            self._cached.prepare(runner)
        self._distiller.attach()

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        self._distiller.detach()

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Put the teacher's fingerprint into the checkpoint."""
        checkpoint[STATE_KEY] = {'teacher': self._fingerprint}

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Keep the fingerprint of a checkpoint until it is known whether the run is resumed."""
        self._resumed = checkpoint.get(STATE_KEY)

    def _expected_teacher(self) -> str:
        if self._resumed is None:
            raise MmacsError('cannot resume: the checkpoint was written by a run without DistillationHook')
        teacher = self._resumed.get('teacher') if isinstance(self._resumed, dict) else None
        if not isinstance(teacher, str):
            raise MmacsError('cannot resume: the checkpoint does not say which teacher its run had')
        return teacher


def build_teacher(student: nn.Module, config: Union[str, Dict[str, Any]], checkpoint: str) -> nn.Module:
    """Build and load a teacher of another architecture.

    Args:
        student (nn.Module): The model that is to learn from it, on its device.
        config (str or dict): A config file, one of a framework such as ``'mmdet::retinanet/...py'``, or the config of
            the model alone.
        checkpoint (str): File or URL of its weights.

    Returns:
        nn.Module: The teacher, frozen, in eval mode and full precision.

    Raises:
        MmacsError: If there is no such file, the weights don't fit, or it normalises images otherwise than the student.
    """
    given = repr(config) if isinstance(config, str) else type(config).__name__
    with _saying(f'cannot read the config of the teacher ({given})'):
        if isinstance(config, str):
            cfg = packaged_config(config).config if '::' in config else Config.fromfile(config)
            config = dict(cfg.model)
            if cfg.get('data_preprocessor') is not None:
                config.setdefault('data_preprocessor', cfg.data_preprocessor)
    with _saying(f'cannot load the weights of the teacher ({checkpoint!r})'):
        weights = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    with _saying(f'cannot build the teacher of that config ({given})'):
        teacher = MODELS.build(config)
    weights = weights.get('state_dict', weights)
    check_fit(teacher, weights)
    teacher.load_state_dict({key.removeprefix('module.'): value for key, value in weights.items()}, strict=False)
    ours, theirs = _normalisation(student), _normalisation(teacher)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            raise MmacsError(
                f"the teacher's data preprocessor has another {name} than the student's, so it would see images that "
                f'it was not trained on: choose a teacher trained on images normalised alike'
            )
    return as_teacher(teacher).to(next(student.parameters()).device)


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """What fails inside is told with what the user gave."""
    try:
        yield
    except Exception as error:
        raise MmacsError(f'{what}: {reason(error)}') from error


def _normalisation(model: nn.Module) -> Dict[str, Any]:
    """Returns what a model's data preprocessor does to the values of images: mean, std, order of channels."""
    preprocessor = model.data_preprocessor
    found: Dict[str, Any] = {name: buffer.flatten().tolist() for name, buffer in preprocessor.named_buffers()}
    for order in ('_channel_conversion', 'to_rgb'):  # MMDetection's name for it, and MMPreTrain's
        if hasattr(preprocessor, order):
            found['order of channels'] = bool(getattr(preprocessor, order))
    return found
