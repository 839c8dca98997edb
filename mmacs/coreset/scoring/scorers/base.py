"""The interface of all scorers: a batch in, named score columns out."""

from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Sequence, Union

from torch import Tensor, nn

from mmacs.utils.errors import MmacsError, unknown_name

CLASSIFIER, DETECTOR = 'classifier', 'detector'  # the kinds of models that scorers are for

_RENAMED = {'reference': 'teacher_outputs', 'harvestable': 'training_columns', 'tapped': 'hooked_module'}


class Scorer:
    """Scores single images. A score is a function of the image alone, never of what else is in the batch.

    The teacher is seen once per run: :meth:`teacher_outputs` gives what the scorer keeps of it, a few KB per image, and
    the columns in :attr:`teacher_columns` are computed from that. Cached outputs give the same scores as fresh ones.

    Attributes:
        kind (str): ``'detector'``, or ``'classifier'``: which :mod:`mmacs.coreset.presets` go with it.
        columns (Mapping[str, str]): Names of the columns it can compute, and what each says.
        teacher_columns (FrozenSet[str]): Those that need the teacher's outputs.
        kept_columns (FrozenSet[str]): Those of them that :meth:`teacher_outputs` gives under their own name: they are
            known without the quantized model, and :meth:`score` is not asked. A class with a ``score`` of its own has
            none unless it names them.
        soft_label_columns (FrozenSet[str]): Those that need the teacher and for which its class probabilities of each
            image are kept, see :meth:`teacher_logits`; detectors have none.
        training_columns (FrozenSet[str]): Those that can be computed from what the :meth:`hooked_module` gives in
            training.
        weights (Mapping[str, str or float]): How much of each column makes up the importance unless the config says
            otherwise: a number, ``'beta'`` or ``'1 - beta'``.
        plain_weights (Mapping[str, str or float]): The same for a model without quantizers, of columns that need no
            teacher; not used where :attr:`weights` needs none either.
        normalisation (str): How the columns are brought to one scale before they are mixed, see
            :class:`mmacs.coreset.selection.importance.Importance`.
    """

    kind = DETECTOR
    columns: Mapping[str, str] = {}
    teacher_columns: FrozenSet[str] = frozenset()
    kept_columns: FrozenSet[str] = frozenset()
    soft_label_columns: FrozenSet[str] = frozenset()
    training_columns: FrozenSet[str] = frozenset()
    weights: Mapping[str, Union[str, float]] = {'evs': 'beta', 'ds': '1 - beta'}
    plain_weights: Mapping[str, Union[str, float]] = {'evs': 1.0}
    normalisation = 'rank'

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for before, now in _RENAMED.items():
            if before in vars(cls):
                raise MmacsError(f'the scorer {cls.__name__} has {before}, which is called {now} since mmacs 0.2')
        if 'score' in vars(cls):  # which may make something else of the teacher's outputs
            cls.kept_columns = vars(cls).get('kept_columns', frozenset())

    def check(self, model: nn.Module, columns: Sequence[str]) -> None:
        """Require that this scorer can compute these columns for this model.

        Raises:
            MmacsError: If there is no such column, or the model is of another kind.
        """
        for column in columns:
            if column not in self.columns:
                raise unknown_name(f'column of {type(self).__name__}', column, self.columns)

    def hooked_module(self, model: nn.Module) -> Optional[nn.Module]:
        """The module whose outputs in a training forward are what :meth:`outputs` gives, or None."""
        return None

    def outputs(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Any:
        """One forward pass: all that :meth:`score` needs of the model.

        Args:
            model (nn.Module): The quantized model or the teacher, in eval mode.
            inputs (Tensor): Preprocessed images, shape (B, 3, H, W); all B were padded alike.
            data_samples (list): MMDetection's or MMPreTrain's data samples, with ground truth.

        Returns:
            Any: Raw outputs, batch first. None, as here, if the columns need no forward pass.
        """
        return None

    def teacher_outputs(
        self, teacher: nn.Module, outputs: Any, data_samples: List[Any], columns: Sequence[str]
    ) -> Dict[str, Tensor]:
        """Returns what is kept of the teacher for a batch: no more than these columns need.

        Args:
            teacher (nn.Module): The full-precision model.
            outputs (Any): What :meth:`outputs` gave for it.
            data_samples (list): The images' data samples, with ground truth.
            columns (Sequence[str]): The columns that will be computed.

        Returns:
            Dict[str, Tensor]: Named tensors, batch first; their other axes and their dtypes are those of all images.
        """
        raise NotImplementedError

    def teacher_logits(self, teacher_outputs: Dict[str, Tensor], num_classes: int) -> Tensor:
        """Returns the teacher's logits of a batch, to distil from.

        Args:
            teacher_outputs (Dict[str, Tensor]): What :meth:`teacher_outputs` gave for one of the
                :attr:`soft_label_columns` at least.
            num_classes (int): K.

        Returns:
            Tensor: Up to one constant per image, float32, shape (B, K).
        """
        raise NotImplementedError

    def score(
        self,
        model: nn.Module,
        outputs: Any,
        data_samples: List[Any],
        teacher_outputs: Dict[str, Tensor],
        columns: Sequence[str],
    ) -> Dict[str, Tensor]:
        """Score a batch.

        Args:
            model (nn.Module): The quantized model.
            outputs (Any): What :meth:`outputs` gave, or what the :meth:`hooked_module` gave in training.
            data_samples (list): The images' data samples, with ground truth.
            teacher_outputs (Dict[str, Tensor]): What :meth:`teacher_outputs` gave for the same images, on the device
                of the outputs; empty if no column needs it.
            columns (Sequence[str]): The columns to compute.

        Returns:
            Dict[str, Tensor]: Each of shape (B,), float; higher is more important.
        """
        raise NotImplementedError
