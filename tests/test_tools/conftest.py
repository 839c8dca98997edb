"""Fixtures of the commands' tests."""

import json

import pytest
import torch
from mmdet.registry import MODELS


@pytest.fixture
def full_precision(tmp_path, tiny_retinanet):
    """Path of a full-precision checkpoint of the narrow RetinaNet, whose boxes are confident enough to be counted."""
    model = MODELS.build(tiny_retinanet)
    torch.nn.init.constant_(model.bbox_head.retina_cls.bias, 0.0)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'fp.pth')
    return tmp_path / 'fp.pth'


@pytest.fixture
def few_layers(tmp_path):
    """Option for a recipe that quantizes the first layer, a part of the neck, and the head."""
    rules = [dict(name='backbone.layer*', skip=True), dict(name='neck.lateral*', skip=True)]
    (tmp_path / 'few.json').write_text(json.dumps(dict(preset='w4a4', rules=rules)))
    return ['--cfg-options', f'model.recipe={tmp_path / "few.json"}']
