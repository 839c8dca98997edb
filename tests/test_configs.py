"""Every shipped config builds its model, names things that exist, and asks for coresets that can be had."""

import re

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, DefaultScope, init_default_scope
from scipy.sparse import csr_matrix

from mmacs.coreset.selection.selectors import coreset_size
from mmacs.hooks import CoresetHook
from mmacs.models.quantized_model import full_precision_config
from mmacs.quantization import quantizers
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO

FOLDER = REPO / 'configs'
CONFIGS = sorted(
    str(path.relative_to(FOLDER)) for path in FOLDER.rglob('*.py') if '_base_' not in path.relative_to(FOLDER).parts
)
# Settings that configs take out of these bases; left in, they would have no effect.
SETTINGS = {key for base in (FOLDER / '_base_' / 'qat').glob('*.py') for key in Config.fromfile(base)}


def choose(hook: CoresetHook, fraction: float, num_images: int = 100) -> np.ndarray:
    """A coreset by a hook's settings from made-up scores, of images of ten classes."""
    scores = dict.fromkeys(('teacher_error', 'ds'), np.zeros(num_images))
    positions, rng = np.arange(num_images), np.random.default_rng(0)
    labels = csr_matrix(np.eye(10, dtype=bool)[positions % 10])
    size = coreset_size(fraction, num_images)
    policy, gaps = hook.settings.policy, np.zeros(num_images, dtype=np.int64)
    made_up = np.linspace(0, 1, num_images)
    chosen = policy.choose(made_up, size, rng, gaps, positions, labels, policy.excluded(scores, rng)).indices
    assert len(np.unique(chosen)) == size
    return chosen


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds(name):
    cfg = Config.fromfile(FOLDER / name)
    assert not SETTINGS & set(cfg)
    DefaultScope._instance_dict.clear()
    init_default_scope(cfg.default_scope)
    backbone = full_precision_config(cfg.model)['backbone']
    if backbone.get('init_cfg'):
        backbone.init_cfg = None
    if 'data_preprocessor' in cfg:  # as MMEngine's Runner does
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    quantized = re.search(r'_w\d+a\d+', name) is not None
    assert (next(quantizers(model), None) is not None) == quantized
    for hook in cfg.default_hooks.values():
        if hook.type.startswith('mmacs.'):
            built = HOOKS.build(hook)
            if isinstance(built, CoresetHook):
                choose(built, cfg.train_dataloader.sampler.fraction)
    for loader, evaluator in ((cfg.val_dataloader, cfg.val_evaluator), (cfg.test_dataloader, cfg.test_evaluator)):
        if 'ann_file' in evaluator:
            assert evaluator.ann_file == loader.dataset.data_root + loader.dataset.ann_file
    if quantized:
        assert cfg.optim_wrapper.constructor == 'mmacs.QuantizationOptimWrapperConstructor'
        assert cfg.train_dataloader.sampler.type == 'mmacs.CoresetSampler'
    plain = re.search(r'_w\d+a\d+\.py$', name) is not None
    assert ('coreset' in cfg.default_hooks) == ('_acs' in name or quantized and not plain)


def test_the_command_that_users_know_stays():
    name = 'retinanet_r18_w4a4_acs.py'
    assert Config.fromfile(FOLDER / name).to_dict() == Config.fromfile(FOLDER / 'retinanet' / name).to_dict()


@pytest.mark.parametrize(
    ('name', 'weight_bits', 'activation_bits'),
    [('w2a2', 2, 2), ('w3a3', 3, 3), ('w4a4', 4, 4), ('w8a8', 8, 8), ('w4a32', 4, 32), ('w1a32', 1, 32)],
)
def test_bit_widths_of_the_variants(name, weight_bits, activation_bits):
    model = MODELS.build(Config.fromfile(FOLDER / 'retinanet' / f'retinanet_r18_{name}_acs.py').model)
    layer = model.neck.fpn_convs[0].conv
    assert layer.weight_quantizer.bits == weight_bits
    assert getattr(layer.input_quantizer, 'bits', 32) == activation_bits


def test_bits_by_cfg_options_change_only_what_they_name():
    cfg = Config.fromfile(FOLDER / 'retinanet_r18_w4a4_acs.py')
    cfg.merge_from_dict({'model.recipe.weight.bits': 3})
    layer = MODELS.build(cfg.model).backbone.layer1[0].conv1
    assert (layer.weight_quantizer.bits, layer.input_quantizer.bits) == (3, 4)
    cfg.merge_from_dict({'model.recipe.weight.bits': 33})
    with pytest.raises(MmacsError, match='bits must be an integer from 1 to 16'):
        MODELS.build(cfg.model)
