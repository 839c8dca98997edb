"""The look-up of who knows a model."""

import subprocess
import sys

import pytest
import torch
from mmdet.models import RetinaNet
from mmdet.registry import MODELS
from torch import nn

from mmacs.adapters import base
from mmacs.adapters.base import Adapter, adapter_of, register
from mmacs.adapters.kinds import DenseAdapter
from tests.conftest import REPO


class OwnRetinaNet(RetinaNet):
    """A user's own subclass of a detector of MMDetection."""


def test_subclasses_of_users_are_known_by_what_they_inherit(tiny_retinanet):
    MODELS.register_module(module=OwnRetinaNet, force=True)
    adapter = adapter_of(MODELS.build({**tiny_retinanet, 'type': 'OwnRetinaNet'}))
    assert isinstance(adapter, DenseAdapter) and adapter.scorable and adapter.comparable and adapter.decodable


def test_a_model_that_no_library_knows_has_no_adapter():
    assert adapter_of(nn.Sequential(nn.Linear(2, 2))) is None


def test_the_adapter_registered_last_is_asked_first(tiny_retinanet, monkeypatch):
    model = MODELS.build(tiny_retinanet)
    adapter_of(model)
    monkeypatch.setattr(base, '_ADAPTERS', list(base._ADAPTERS))

    @register
    class Own(Adapter):
        @classmethod
        def fits(cls, model):
            return isinstance(model, RetinaNet)

    assert type(adapter_of(model)) is Own
    assert not isinstance(adapter_of(nn.Linear(1, 1)), Own)


CLASSIFIER = """
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
import mmpretrain.models
head = dict(type='LinearClsHead', num_classes=5, in_channels=64)
backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8)
model = MODELS.build(dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head))
scorer, samples = ClassificationScorer(), [DataSample().set_gt_label(1)]
"""
DETECTOR = """
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
import mmdet.models
model = MODELS.build(TINY)
data = model.data_preprocessor(demo_mm_inputs(1, [(3, 32, 32)], num_items=[1], num_classes=3), False)
scorer, samples = DenseDetectionScorer(), data['data_samples']
"""


@pytest.mark.parametrize(('missing', 'build'), [('mmdet', CLASSIFIER), ('mmpretrain', DETECTOR)])
def test_a_library_that_the_model_does_not_use_need_not_be_installed(missing, build, tiny_retinanet):
    code = f"""
import sys
sys.modules[{missing!r}] = None  # importing it fails
import torch
from mmengine.registry import init_default_scope
from mmacs.coreset.scoring.scorers import ClassificationScorer, DenseDetectionScorer
from mmacs.distillation import Distiller
from mmacs.teacher.model import make_teacher
TINY = {dict(tiny_retinanet)!r}
init_default_scope({'mmpretrain' if missing == 'mmdet' else 'mmdet'!r})
{build}
scorer.check(model, ['evs'])
with torch.no_grad():
    outputs = scorer.outputs(model.eval(), torch.randn(1, 3, 32, 32), samples)
    print(scorer.score(model, outputs, samples, {{}}, ['evs'])['evs'].shape)
Distiller(model, make_teacher(model))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(torch.Size([1]))
