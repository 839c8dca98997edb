"""Configs of quantized models in both forms, and the libraries' own inference with them."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.models import RetinaNet
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain import ImageClassificationInferencer, get_model

from mmacs.models.quantized_model import build_quantized_model, full_precision_config, is_quantized
from mmacs.quantization import calibrate, quantizers
from mmacs.registry import MODELS
from mmacs.utils.errors import MmacsError
from tests.conftest import run_config

RECIPE = dict(preset='w4a8')


@pytest.fixture
def flat(tiny_retinanet):
    return ConfigDict(tiny_retinanet, type='mmacs.QuantizedModel', model='RetinaNet', recipe=RECIPE)


@pytest.fixture
def nested(tiny_retinanet):
    return ConfigDict(type='mmacs.QuantizedModel', model=tiny_retinanet, recipe=RECIPE)


@pytest.fixture
def _mmdet():
    init_default_scope('mmdet')


pytestmark = pytest.mark.usefixtures('_mmdet')


@pytest.mark.parametrize('name', ['RetinaNet', 'mmdet.RetinaNet', RetinaNet])
def test_both_forms_build_the_same_model(flat, nested, name):
    flat.model = name
    torch.manual_seed(0)
    one = MODELS.build(flat)
    torch.manual_seed(0)
    other = MODELS.build(nested)
    assert type(one) is RetinaNet
    assert one.recipe == RECIPE
    assert str(one) == str(other)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_a_config_that_inherits_a_full_precision_one_names_its_type_and_overrides_as_ever(tmp_path):
    (tmp_path / 'child.py').write_text(
        "_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n"
        "model = dict(type='mmacs.QuantizedModel', model='RetinaNet', recipe=dict(preset='w4a4'))\n"
    )
    (tmp_path / 'grandchild.py').write_text(
        "_base_ = './child.py'\n"
        "model = dict(backbone=dict(frozen_stages=-1, init_cfg=None), recipe=dict(preset='w2a2'))\n"
    )
    cfg = Config.fromfile(tmp_path / 'grandchild.py')
    cfg.merge_from_dict({'model.bbox_head.num_classes': 3})
    model = MODELS.build(cfg.model)
    assert type(model) is RetinaNet
    assert model.backbone.frozen_stages == -1 and model.bbox_head.num_classes == 3
    assert model.neck.fpn_convs[0].conv.weight_quantizer.bits == 2


def test_the_full_precision_config_is_the_same_for_both_forms_and_that_of_other_models(flat, nested, tiny_retinanet):
    plain = dict(tiny_retinanet)
    as_text = [json.dumps(full_precision_config(config), sort_keys=True) for config in (flat, nested, tiny_retinanet)]
    assert as_text == [json.dumps(plain, sort_keys=True)] * 3
    preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=7)
    for config in (flat, nested):
        inner = config if config is flat else config.model
        del inner['data_preprocessor']
        assert 'data_preprocessor' not in full_precision_config(dict(config, data_preprocessor=None))
        assert full_precision_config(dict(config, data_preprocessor=preprocessor))['data_preprocessor'] == preprocessor
    nested.model.data_preprocessor = 'its own'
    nested.data_preprocessor = preprocessor
    assert full_precision_config(nested)['data_preprocessor'] == 'its own'


def test_without_a_recipe_both_forms_stay_in_full_precision(flat, nested):
    for config in (flat, nested):
        assert not list(quantizers(MODELS.build(dict(config, recipe=None))))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(model=None), "needs the type of the full-precision model, as in model='RetinaNet', or its whole config"),
        (dict(model=3), 'needs the type of the full-precision model.* got 3'),
        (dict(model='RetinaNett'), "there is no model 'RetinaNett' to quantize, did you mean 'RetinaNet'"),
        (dict(model='mmdet.Retinanet'), "no model 'mmdet.Retinanet' to quantize, did you mean 'RetinaNet'"),
        (dict(_scope_='mmacs'), "'RetinaNet' to quantize in mmacs: write .* as in _scope_='mmdet'"),
        (dict(recipee='w2a2'), "RetinaNet has no setting 'recipee', did you mean 'recipe'"),
        (dict(bakbone=None), "RetinaNet has no setting 'bakbone', did you mean 'backbone'"),
    ],
)
def test_mistakes_in_the_flat_form(flat, change, message):
    with pytest.raises(MmacsError, match=message):
        MODELS.build({**flat, **change})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(recipee='w2a2'), "QuantizedModel has no setting 'recipee', did you mean 'recipe'"),
        (
            dict(backbone=dict(depth=50)),
            'has a whole config as its model, and beside it backbone: change model.model.b',
        ),
        (dict(model=dict(backbone=None)), 'has no type'),
    ],
)
def test_mistakes_in_the_nested_form(nested, change, message):
    with pytest.raises(MmacsError, match=message):
        MODELS.build({**nested, **change})


def test_dumped_configs_in_the_nested_form_stay_usable(tmp_path, nested):
    Config(dict(model=nested)).dump(tmp_path / 'dumped.py')
    model = MODELS.build(Config.fromfile(tmp_path / 'dumped.py').model)
    assert type(model) is RetinaNet and model.recipe == RECIPE


def test_no_model_at_all():
    with pytest.raises(MmacsError, match='needs the type of the full-precision model'):
        MODELS.build(dict(type='mmacs.QuantizedModel', recipe=RECIPE))


# -------------------------------------------------------------------- inference
def save(model, path, **meta):
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return str(path)


@pytest.fixture
def detector(tiny_coco, tmp_path, flat):
    """Path of a config in the flat form, a quantized checkpoint, one in full precision, and the runner's model."""
    cfg = run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run')
    cfg.model = flat
    cfg.dump(tmp_path / 'config.py')
    model = MODELS.build(flat)
    calibrate(model, [torch.randn(2, 3, 64, 96)])
    torch.nn.init.normal_(model.bbox_head.retina_cls.weight, std=0.3)  # so that something is detected
    cfg.load_from = save(model, tmp_path / 'quantized.pth', dataset_meta=dict(classes=('a', 'b', 'c')))
    full = MODELS.build(full_precision_config(flat))
    runner = Runner.from_cfg(copy.deepcopy(cfg))
    runner.load_or_resume()
    return tmp_path / 'config.py', cfg.load_from, save(full, tmp_path / 'full.pth'), runner.model.eval()


@pytest.fixture
def picture(tiny_coco):
    return str(tiny_coco / 'images' / '001.png')


def assert_loaded(model, expected):
    """All steps are the runner's, and quantization is on."""
    assert str(model) == str(expected)
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(quantizer.enabled and quantizer.is_initialized() for _, quantizer in quantizers(model))
    assert not model.training


@pytest.mark.parametrize('options', [None, {}, {'model.test_cfg.score_thr': 0.1}])
def test_init_detector(detector, picture, options):
    config, checkpoint, _, expected = detector
    model = init_detector(str(config), checkpoint, device='cpu', cfg_options=options)
    assert_loaded(model, expected)
    assert model.dataset_meta['classes'] == ('a', 'b', 'c')
    if options:
        assert model.test_cfg.score_thr == 0.1
        return
    found = inference_detector(model, picture).pred_instances
    expected.cfg = model.cfg
    wanted = inference_detector(expected, picture).pred_instances
    assert len(found) and torch.equal(found.bboxes, wanted.bboxes) and torch.equal(found.scores, wanted.scores)
    for _, quantizer in quantizers(expected):
        quantizer.enabled = False
    assert not torch.equal(inference_detector(expected, picture).pred_instances.scores, found.scores)


def test_bits_by_options_must_be_those_of_the_checkpoint(detector):
    config, checkpoint, _, _ = detector
    with pytest.raises(MmacsError, match='has 3 bits, but the checkpoint has step sizes for 4'):
        init_detector(str(config), checkpoint, device='cpu', cfg_options={'model.recipe.weight.bits': 3})


def test_det_inferencer(detector, picture):
    config, checkpoint, _, expected = detector
    inferencer = DetInferencer(str(config), checkpoint, device='cpu', show_progress=False)
    assert_loaded(inferencer.model, expected)
    found = inferencer(picture, no_save_vis=True)['predictions'][0]
    expected.cfg = inferencer.cfg
    model = init_detector(str(config), checkpoint, device='cpu')
    wanted = inference_detector(model, picture).pred_instances
    assert found['scores'] == pytest.approx(wanted.scores.tolist())


def test_a_full_precision_checkpoint_without_calibration_is_told_at_the_first_forward(detector, picture):
    config, _, full, _ = detector
    model = init_detector(str(config), full, device='cpu')
    with pytest.raises(MmacsError, match='was never calibrated: .* or load a checkpoint of a quantized model'):
        inference_detector(model, picture)


@pytest.fixture
def classifier(tmp_path):
    """Path of a config that inherits MMPreTrain's with a top-level data_preprocessor, a checkpoint, and its model."""
    path = tmp_path / 'classifier.py'
    path.write_text(
        "_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n"
        "custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)\n"
        "model = dict(type='mmacs.QuantizedModel', model='ImageClassifier', recipe=dict(preset='w4a8'),\n"
        '    backbone=dict(base_channels=8, stem_channels=8), head=dict(in_channels=64))\n'
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]\n"
        'test_dataloader = dict(dataset=dict(_delete_=True, type="CIFAR10", pipeline=test_pipeline))\n'
    )
    cfg = Config.fromfile(path)
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    calibrate(model, [torch.randn(4, 3, 32, 32)])
    return path, save(model, tmp_path / 'classifier.pth', dataset_meta=dict(classes=list('abcdefghij'))), model.eval()


@pytest.fixture
def tile(tmp_path):
    cv2.imwrite(str(tmp_path / 'tile.png'), np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return str(tmp_path / 'tile.png')


def test_get_model(classifier):
    path, checkpoint, expected = classifier
    model = get_model(str(path), pretrained=checkpoint)
    assert_loaded(model, expected)
    assert model.data_preprocessor.mean.tolist() == expected.data_preprocessor.mean.tolist()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(model(x, mode='tensor'), expected(x, mode='tensor'))
    other = get_model(str(path), head=dict(num_classes=7))
    assert other.head.num_classes == 7 and next(quantizers(other))


def test_image_classification_inferencer(classifier, tile):
    path, checkpoint, expected = classifier
    inferencer = ImageClassificationInferencer(str(path), pretrained=checkpoint, device='cpu')
    assert_loaded(inferencer.model, expected)
    (found,) = inferencer(tile)
    image = torch.from_numpy(cv2.imread(tile)).permute(2, 0, 1)
    (wanted,) = expected.test_step(dict(inputs=[image]))
    assert found['pred_scores'] == pytest.approx(wanted.pred_score.tolist())
    assert found['pred_class'] == 'abcdefghij'[wanted.pred_score.argmax()]


@pytest.mark.parametrize(
    ('kind', 'ours'),
    [
        ('QuantizedModel', True),
        ('mmacs.QuantizedModel', True),
        (build_quantized_model, True),
        ('mmacs.models.quantized_model.build_quantized_model', True),  # as MMEngine dumps it
        ('own.QuantizedModel', False),
        (RetinaNet, False),
        (None, False),
    ],
)
def test_a_quantized_model_is_known_by_each_way_to_name_it(kind, ours):
    assert is_quantized(dict(type=kind)) is ours
