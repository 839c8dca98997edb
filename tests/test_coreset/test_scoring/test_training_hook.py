"""What one training iteration gives to the coreset and takes from it, on a linear classifier."""

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, RepeatDataset
from mmengine.structures import BaseDataElement
from torch import nn

from mmacs.coreset.budget.cost import Cost
from mmacs.coreset.data import TrainingData
from mmacs.coreset.scoring import training_hook as module
from mmacs.coreset.scoring.scorers import Scorer
from mmacs.coreset.scoring.training_hook import TrainingHook
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import Selection, TopK
from mmacs.coreset.settings import CoresetSettings
from mmacs.datasets.distinct_images import DistinctImages
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


class Place:
    """A hook with what it gives."""

    def __init__(self, model, columns=('evs',), max_weight=None):
        self.data = TrainingData.read(DistinctImages(RepeatDataset(Images(serialize_data=False), 2), []))
        self.found = np.full(6, np.nan, np.float32)
        self.hook = TrainingHook(model, self.data, Largest(), columns, self.receive, max_weight)

    def receive(self, positions, scores):
        self.found[positions] = scores['evs']


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
    model = Classifier()
    own = Place(model)
    data = batch(4, 1)
    iteration(own.hook, model, data)
    expected = model.head(torch.stack(data['inputs']) / 2).amax(1).detach()
    assert np.isnan(own.found).all()  # no iteration waits for the device
    own.hook.flush()
    np.testing.assert_allclose(own.found[[4, 1]], expected, rtol=1e-6)
    assert np.flatnonzero(np.isfinite(own.found)).tolist() == [1, 4]
    iteration(own.hook, model, batch(0, 4))
    with torch.no_grad():
        model.head.weight.mul_(2)
    iteration(own.hook, model, batch(4))
    own.hook.flush()
    assert np.flatnonzero(np.isfinite(own.found)).tolist() == [0, 1, 4]
    latest = model.head(torch.stack(batch(4)['inputs']) / 2).amax(1).detach()
    np.testing.assert_allclose(own.found[[4]], latest, rtol=1e-6)  # of two iterations the later counts
    own.found[:] = np.nan
    own.hook.flush()
    assert np.isnan(own.found).all()


def test_scores_of_iterations_are_those_of_all_processes(monkeypatch):
    # of image 4, which both saw, the other process's iteration is the later one
    others = {
        torch.int64: torch.tensor([[5, 0], [2, 0], [4, 1]]),
        torch.float32: torch.tensor([[0.9], [0.2], [0.4]]),
    }
    monkeypatch.setattr(module, 'gather_rows', lambda mine: torch.cat([mine, others[mine.dtype]]))
    model = Classifier()
    own = Place(model)
    iteration(own.hook, model, batch(4, 1))
    own.hook.flush()
    np.testing.assert_allclose(own.found[[5, 2, 4]], [0.9, 0.2, 0.4])
    assert np.flatnonzero(np.isfinite(own.found)).tolist() == [1, 2, 4, 5]


def test_nothing_is_left_between_iterations():
    model = Classifier()
    own = Place(model)
    iteration(own.hook, model, batch(0))
    assert not model.head._forward_hooks and not model.data_preprocessor._forward_hooks
    model.losses(batch(5))
    own.hook.end()
    own.hook.flush()
    assert np.isnan(own.found[5])


def test_an_evaluation_within_an_iteration_gives_nothing():
    model = Classifier()
    own = Place(model)
    own.hook.begin(batch(2)['data_samples'])
    model.eval().losses(batch(3))
    own.hook.end()
    own.hook.flush()
    assert np.isnan(own.found).all()


def gradient(model, losses):
    return torch.autograd.grad(losses.sum(), model.head.weight)[0]


def test_losses_are_weighted_by_inverse_probabilities():
    model = Classifier()
    hook = Place(model, columns=(), max_weight=1.5).hook
    hook.use(Selection(np.array([1, 8, 9]), np.array([0.5, 0.25, 0.1])))  # images 1, 2, 3
    data = batch(3, 1, 2)
    losses = iteration(hook, model, data)
    plain = model.losses(data)
    torch.testing.assert_close(losses, plain)  # what is logged stays unweighted
    weights = torch.tensor([1.5, 3 / (12 * 0.5), 3 / (12 * 0.25)])
    torch.testing.assert_close(model.head.weight.grad, gradient(model, weights * plain))


def test_weights_need_probabilities():
    hook = Place(Classifier(), columns=(), max_weight=10).hook
    with pytest.raises(MmacsError, match='unbiased needs inclusion probabilities: take a selector that draws'):
        hook.use(Selection(np.array([0, 1])))


def test_a_model_without_a_head_to_tap_is_refused():
    with pytest.raises(MmacsError, match='Frozen with Largest has none'):
        Place(Frozen())


def test_columns_that_training_cannot_give_are_refused():
    with pytest.raises(MmacsError, match=r"none of \['ds'\] can be had from a training forward, but \['evs'\] can"):
        CoresetSettings(Largest(), Importance({'ds': 1.0}), Policy(TopK(), Constraints()), cost=Cost(harvest=True))
