"""What one training iteration gives to the coreset and takes from it, on a linear classifier."""

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, RepeatDataset
from mmengine.structures import BaseDataElement
from torch import nn

from mmacs.coreset.data import ScoringView
from mmacs.coreset.engine import CoresetEngine
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.scoring_pass import ScoringPass
from mmacs.coreset.scoring.training_hook import TrainingHook
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import GumbelTopK, Selection, TopK
from mmacs.utils.errors import MmacsError


class Images(BaseDataset):
    def load_data_list(self):
        return [dict(img_path=f'{number}.png', gt_label=number % 2) for number in range(6)]


class Largest(Scorer):
    """The largest output, which training gives too, and the label, which it doesn't."""

    columns = {'evs': 'largest output', 'ds': 'label'}
    training_columns = frozenset({'evs'})

    def hooked_module(self, model):
        return getattr(model, 'head', None)

    def score(self, model, outputs, data_samples, teacher_outputs, columns):
        assert not outputs.requires_grad and not torch.is_grad_enabled()
        return {name: outputs.amax(1) for name in columns}


class Preprocessor(nn.Module):
    def forward(self, data, training):
        return {'inputs': torch.stack(data['inputs']) / 2, 'data_samples': data['data_samples']}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.data_preprocessor = Preprocessor()
        self.head = nn.Linear(3, 2)

    def losses(self, data):
        return self.head(self.data_preprocessor(data, True)['inputs']).square().sum(1)


class Frozen(nn.Module):
    """A model without a head that could be hooked."""


def engine(harvest=True, weights=None, selector=None):
    view = ScoringView(RepeatDataset(Images(serialize_data=False), 2), [])
    importance = Importance(weights or {'evs': 1.0})
    return CoresetEngine(
        ScoringPass(view, 2), Largest(), importance, Policy(selector or TopK(), Constraints()), harvest
    )


def batch(*numbers):
    samples = [BaseDataElement(metainfo=dict(img_path=f'{number}.png')) for number in numbers]
    return {'inputs': [torch.full((3,), float(number + 1)) for number in numbers], 'data_samples': samples}


def iteration(hook, model, data):
    hook.begin(data['data_samples'])
    losses = model.losses(data)
    losses.sum().backward()
    hook.end()
    return losses


def test_a_training_forward_gives_scores_of_its_images():
    own, model = engine(), Classifier()
    hook = TrainingHook(own, model, unbiased=False, max_weight=10)
    data = batch(4, 1)
    iteration(hook, model, data)
    expected = model.head(torch.stack(data['inputs']) / 2).amax(1).detach()
    harvested = own.ledger.harvested['evs']
    np.testing.assert_allclose(harvested[[4, 1]], expected, rtol=1e-6)
    assert np.flatnonzero(np.isfinite(harvested)).tolist() == [1, 4]
    assert np.isnan(own.ledger.scores['evs']).all()  # they wait for the round
    iteration(hook, model, batch(0, 4))
    assert np.flatnonzero(np.isfinite(harvested)).tolist() == [0, 1, 4]


def test_nothing_is_left_between_iterations():
    own, model = engine(), Classifier()
    hook = TrainingHook(own, model, unbiased=False, max_weight=10)
    iteration(hook, model, batch(0))
    assert not model.head._forward_hooks and not model.data_preprocessor._forward_hooks
    model.losses(batch(5))
    hook.end()
    assert np.isnan(own.ledger.harvested['evs'][5])


def test_an_evaluation_within_an_iteration_gives_nothing():
    own, model = engine(), Classifier()
    hook = TrainingHook(own, model, unbiased=False, max_weight=10)
    hook.begin(batch(2)['data_samples'])
    model.eval().losses(batch(3))
    hook.end()
    assert np.isnan(own.ledger.harvested['evs']).all()


def gradient(model, losses):
    return torch.autograd.grad(losses.sum(), model.head.weight)[0]


def test_losses_are_weighted_by_inverse_probabilities():
    own, model = engine(harvest=False, selector=GumbelTopK()), Classifier()
    hook = TrainingHook(own, model, unbiased=True, max_weight=1.5)
    own.selection = Selection(np.array([1, 8, 9]), np.array([0.5, 0.25, 0.1]))  # images 1, 2, 3
    hook.use(own.selection)
    data = batch(3, 1, 2)
    losses = iteration(hook, model, data)
    plain = model.losses(data)
    torch.testing.assert_close(losses, plain)  # what is logged stays unweighted
    weights = torch.tensor([1.5, 3 / (12 * 0.5), 3 / (12 * 0.25)])
    torch.testing.assert_close(model.head.weight.grad, gradient(model, weights * plain))


def test_weights_need_probabilities():
    own = engine(harvest=False)
    hook = TrainingHook(own, Classifier(), unbiased=True, max_weight=10)
    own.selection = Selection(np.array([0, 1]))
    with pytest.raises(MmacsError, match='unbiased needs inclusion probabilities: take a selector that draws'):
        hook.use(own.selection)


def test_a_model_without_a_head_to_tap_is_refused():
    with pytest.raises(MmacsError, match='Frozen with Largest has none'):
        TrainingHook(engine(), Frozen(), unbiased=False, max_weight=10)


def test_columns_that_training_cannot_give_are_refused():
    with pytest.raises(MmacsError, match=r"none of \['ds'\] can be had from a training forward, but \['evs'\] can"):
        TrainingHook(engine(weights={'ds': 1.0}), Classifier(), unbiased=False, max_weight=10)
