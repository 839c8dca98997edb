"""Configs of packages, by name."""

import pytest

from mmacs.utils import packaged_config as module
from mmacs.utils.errors import MmacsError


def test_a_config_comes_with_the_weights_that_are_published_for_it():
    found = module.packaged_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
    assert found.config.model.type == 'RetinaNet' and 'model_path' not in found.config
    assert found.weights.startswith('https://')
    assert module.packaged_config('mmdet::_base_/default_runtime.py').weights is None


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('mmdet::retinnet/retinanet_r18_fpn_1x_coc.py', "mean 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'?"),
        ('mmdt::retinanet/retinanet_r18_fpn_1x_coco.py', "unknown package of configs 'mmdt': did you mean 'mmdet'?"),
        ('mmdet::nothing.py', 'no such config: mmdet::nothing.py'),
        ('mmrazor::a/b.py', 'a config of mmrazor, which is not installed'),
    ],
)
def test_what_is_not_there_is_named_and_nothing_is_installed(name, sentence, monkeypatch):
    monkeypatch.setattr('mmengine.hub.hub.install_package', lambda package: None)
    with pytest.raises(MmacsError) as raised:
        module.packaged_config(name)
    assert sentence in str(raised.value)
