"""Classifiers are built in MMPreTrain's scope."""

import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def _mmpretrain_scope(_mmdet_scope):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield
