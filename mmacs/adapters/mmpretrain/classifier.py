"""MMPreTrain's image classifiers."""

from inspect import signature
from typing import Any, Dict, List, Optional

from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from torch import Tensor, nn

from mmacs.adapters.base import Calls, Predictions, register
from mmacs.adapters.kinds import ClassifierAdapter, ClassifierOutputs
from mmacs.utils.errors import MmacsError


@register
class Classifier(ClassifierAdapter):
    """Classifiers with a ``head``; those that are scored have one label per image."""

    heads = ('head',)

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """See :meth:`Adapter.fits`."""
        head = getattr(model, 'head', None)
        return hasattr(head, 'pre_logits') or hasattr(head, 'loss_module')

    @property
    def scorable(self) -> bool:
        """Whether there are a backbone and a head as MMPreTrain's."""
        return hasattr(self.model, 'backbone') and hasattr(self.model.head, 'pre_logits')

    @property
    def comparable(self) -> bool:
        """Whether the head maps features to logits of exclusive classes."""
        head = self.model.head
        exclusive = hasattr(head, 'loss_module') and not getattr(head.loss_module, 'use_sigmoid', False)
        return exclusive and len(signature(head.forward).parameters) == 1

    @property
    def mixes_images(self) -> bool:
        """See :attr:`ClassifierAdapter.mixes_images`."""
        return getattr(self.model.data_preprocessor, 'batch_augments', None) is not None

    def hooked_module(self) -> Optional[nn.Module]:
        """The head; None while images are mixed in training (which a hook may switch), or if it is told the labels."""
        adds_margin = hasattr(self.model.head, 'margins')  # ArcFace: logits of training are worse than in evaluation
        return None if self.mixes_images or adds_margin else self.model.head

    def outputs(self, inputs: Tensor, data_samples: List[Any]) -> ClassifierOutputs:
        """See :meth:`Adapter.outputs`."""
        feats = self.model.extract_feat(inputs)
        features = self.model.head.pre_logits(feats)
        has_vector = isinstance(features, Tensor) and features.ndim == 2
        return ClassifierOutputs(self.logits(self.model.head(feats)), features if has_vector else None)

    def logits(self, outputs: Any) -> Tensor:
        """See :meth:`ClassifierAdapter.logits`."""
        if isinstance(outputs, tuple):  # the two branches of a Conformer, which it adds up to predict
            outputs = sum(outputs)
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
            raise MmacsError(
                f'a classifier needs a head that gives logits of two or more classes for each image, which '
                f'{type(self.model.head).__name__} does not'
            )
        return outputs.float()

    def raw(self, inputs: Tensor) -> Dict[str, Tensor]:
        """See :meth:`Adapter.raw`."""
        head = self.model.head
        predict = getattr(type(head), '_get_predictions', None)
        if predict not in (ClsHead._get_predictions, MultiLabelClsHead._get_predictions):
            raise MmacsError(f'how {type(head).__name__} makes scores is not known here, so it cannot be exported')
        logits = self.logits(head(self.model.extract_feat(inputs)))
        exclusive = predict is ClsHead._get_predictions
        return {'scores': logits.softmax(1) if exclusive else logits.sigmoid()}

    def run_like(self, inputs: Tensor, data_samples: List[Any], calls: Calls) -> None:
        """See :meth:`Adapter.run_like`."""
        self.model.head(self.model.extract_feat(inputs))

    def predictions(self, calls: Calls) -> List[Predictions]:
        """Returns the logits of the images."""
        return [Predictions(self.logits(calls['head'][0].output), None, sigmoid=False)]
