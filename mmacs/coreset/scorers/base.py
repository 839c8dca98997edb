"""The interface of all scorers: a batch in, named score columns out."""

from typing import Any, Dict, List

from torch import Tensor, nn


class Scorer:
    """Scores single images. A score is a function of the image alone, never of what else is in the batch.

    Attributes:
        columns (tuple): Names of its columns.
        normalisation (str): How the columns are brought to one scale before they are mixed, see
            :func:`mmacs.coreset.scores.normalise`.
    """

    columns = ('evs', 'ds')
    normalisation = 'rank'

    def check(self, model: nn.Module) -> None:
        """Raise an :class:`~mmacs.errors.MmacsError` if this scorer can't score this model."""

    def __call__(
        self, model: nn.Module, teacher: nn.Module, inputs: Tensor, data_samples: List[Any]
    ) -> Dict[str, Tensor]:
        """Score a batch.

        Args:
            model (nn.Module): The quantized model, in eval mode.
            teacher (nn.Module): The full-precision model, in eval mode.
            inputs (Tensor): Preprocessed images, shape (B, 3, H, W); all B were padded alike.
            data_samples (list): MMDetection's or MMPreTrain's data samples, with ground truth.

        Returns:
            Dict[str, Tensor]: Columns ``'evs'`` and ``'ds'``, each of shape (B,), higher is more important.
        """
        raise NotImplementedError
