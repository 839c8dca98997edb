"""A run that starts from a detector of other classes: refused, or told to start the layer of classes anew."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.runner import Runner

from mmacs.hooks.loaded_checkpoint import check_fit
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config

CLASSES = 'bbox_head.retina_cls'


@pytest.fixture
def other(tiny_retinanet, tmp_path):
    """Weights of the narrow RetinaNet with 80 classes, and their file."""
    tiny_retinanet.bbox_head.num_classes = 80
    weights = MODELS.build(tiny_retinanet).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'coco.pth')
    return weights


def test_what_does_not_fit_is_named_with_the_option_that_lets_it_start_anew(tiny_retinanet, other):
    tiny_retinanet.bbox_head.num_classes = 3
    model = MODELS.build(tiny_retinanet)
    with pytest.raises(MmacsError) as refused:
        check_fit(model, other, option=True)
    assert f'{CLASSES}.weight (720, 16, 3, 3) instead of (27, 16, 3, 3)' in str(refused.value)
    assert (
        f"if another number of classes is meant, let these start anew: QuantizationHook's start_anew='{CLASSES}.*'"
        in str(refused.value)
    )
    assert check_fit(model, other, [f'{CLASSES}.*']) == [f'{CLASSES}.weight', f'{CLASSES}.bias']
    del other['neck.lateral_convs.0.conv.weight']
    with pytest.raises(MmacsError, match='1 of its weights .*neck.lateral_convs.0.conv.weight') as refused:
        check_fit(model, other, [f'{CLASSES}.*'], option=True)
    assert 'start anew' not in str(refused.value)


def test_a_run_keeps_the_initial_weights_of_what_starts_anew(tiny_coco, tmp_path, other):
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run', load_from=str(tmp_path / 'coco.pth'))
    cfg.default_hooks.quantization.start_anew = f'{CLASSES}.*'
    runner = Runner.from_cfg(cfg)
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.load_or_resume()
    for key, value in runner.model.state_dict().items():
        if 'quantizer' not in key:
            assert torch.equal(value, (before if key.startswith(CLASSES) else other)[key]), key
    with pytest.raises(MmacsError, match=f'{CLASSES}.weight, {CLASSES}.bias would be evaluated untrained'):
        runner.call_hook('before_test')
