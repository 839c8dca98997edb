"""``mmacs.ExportedModel`` in MMEngine's loops, and ``python -m mmacs.deploy.infer``."""

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from PIL import Image

from mmacs.deploy.export import Exported, warn_of_pictures
from mmacs.deploy.infer import Detection, draw, main
from mmacs.deploy.metadata import Metadata, Preprocessing, read_metadata, require_untouched, write_metadata
from mmacs.deploy.openvino_ir import write_ir
from mmacs.deploy.preprocessing import data_of, in_one_batch, prepared, preprocessing_of, resized_size
from mmacs.utils.errors import MmacsError
from tests.conftest import REPO
from tests.test_deploy.graphs import classifier_graph, detector_graph, residual_graph


def saved(model, path):
    path.write_bytes(model.SerializeToString())
    return str(path)


def sample(scale=(1.0, 1.0), shape=(200, 400)):
    return DetDataSample(metainfo=dict(scale_factor=scale, ori_shape=shape, img_id=1))


@pytest.fixture
def detector(tmp_path):
    return MODELS.build(dict(type='mmacs.ExportedModel', file=saved(detector_graph(), tmp_path / 'detector.onnx')))


def test_detections_are_in_pixels_of_the_original_image(detector):
    image = torch.full((3, 40, 64), 9, dtype=torch.uint8)
    batch = dict(inputs=[image, 0 * image[:, :30]], data_samples=[sample((0.5, 0.25)), sample()])
    found, nothing = detector.test_step(batch)
    assert isinstance(found, DetDataSample) and found.img_id == 1
    instances = found.pred_instances
    assert len(instances) == 150 and len(nothing.pred_instances) == 0
    assert instances.bboxes[1].tolist() == [2, 2, 18, 18]  # 1, 0.5, 9, 4.5 of the resized image
    assert instances.bboxes[:, [0, 2]].max() == 314 and instances.bboxes[:, [1, 3]].max() == 200  # within the image
    assert instances.labels[:4].tolist() == [0, 1, 2, 0] and instances.labels.dtype == torch.int64
    assert not hasattr(batch['data_samples'][0], 'pred_instances')


def test_a_file_of_a_fixed_shape_takes_other_batches_and_smaller_images(tmp_path):
    path = saved(detector_graph(shape=(2, 3, 64, 96)), tmp_path / 'fixed.onnx')
    model = MODELS.build(dict(type='mmacs.ExportedModel', file=path, backend='openvino', threads=1))
    images = [torch.full((3, 40 + number, 64), 9) for number in range(3)]
    found = model.test_step(dict(inputs=images, data_samples=[sample()] * 3))
    assert [len(one.pred_instances) for one in found] == [150] * 3
    with pytest.raises(MmacsError, match='takes images of 64 x 96 pixels at most, and got one of 40 x 128'):
        model.test_step(dict(inputs=[torch.zeros(3, 40, 128)], data_samples=[sample()]))


def test_a_file_of_openvinos_own_format(tmp_path, capsys):
    write_ir(detector_graph(), tmp_path / 'model.xml')
    path = str(tmp_path / 'model.xml')
    model = MODELS.build(dict(type='mmacs.ExportedModel', file=path, backend='openvino', threads=1))
    (found,) = model.test_step(dict(inputs=[torch.full((3, 40, 64), 9)], data_samples=[sample()]))
    assert len(found.pred_instances) == 150 and model.metadata.classes == ['a', 'b', 'c']
    Image.new('RGB', (40, 20), 'white').save(tmp_path / 'white.png')
    assert main([path, str(tmp_path / 'white.png'), '--threshold', '0.8']) == 0
    assert capsys.readouterr().out.splitlines()[-1] == '19 objects with a score of 0.8 or more'


def test_class_scores(tmp_path):
    model = MODELS.build(dict(type='mmacs.ExportedModel', file=saved(classifier_graph(), tmp_path / 'classifier.onnx')))
    image = torch.zeros(3, 8, 8)
    image[1] = 4
    (found,) = model.test_step(dict(inputs=image[None], data_samples=[DataSample()]))
    assert found.pred_label.tolist() == [1]
    assert found.pred_score.sum() == pytest.approx(1)
    assert model(image[None], mode='tensor')['scores'].shape == (1, 3)
    with pytest.raises(MmacsError, match='gives class scores, and the data are those of a detector'):
        model.test_step(dict(inputs=image[None], data_samples=[sample()]))


def test_what_an_exported_model_cannot_do(detector, tmp_path):
    with pytest.raises(MmacsError, match='cannot be trained'):
        detector([torch.zeros(3, 8, 8)], [sample()], mode='loss')
    with pytest.raises(MmacsError, match='3 channels and at least one pixel, got 1 x 8 x 8'):
        detector([torch.zeros(1, 8, 8)], [sample()], mode='predict')
    with pytest.raises(MmacsError, match='3 channels and at least one pixel, got 3 x 0 x 8'):
        detector([torch.zeros(3, 0, 8)], [sample()], mode='predict')
    with pytest.raises(MmacsError, match="unknown mode 'prediction'"):
        detector([torch.zeros(3, 8, 8)], [sample()], mode='prediction')
    with pytest.raises(MmacsError, match='gives detections, and the data are those of a classifier'):
        detector([torch.zeros(3, 8, 8)], [DataSample()], mode='predict')
    with pytest.raises(MmacsError, match='no image in the batch'):
        detector([], [], mode='predict')
    raw = residual_graph()
    write_metadata(raw, Metadata())
    with pytest.raises(MmacsError, match='gives cls_score_0, bbox_pred_0, and no detections'):
        MODELS.build(dict(type='mmacs.ExportedModel', file=saved(raw, tmp_path / 'raw.onnx')))


def changed(change):
    model = detector_graph()
    change(model)
    return model


def set_property(key, value):
    def change(model):
        next(one for one in model.metadata_props if one.key == f'mmacs.{key}').value = value

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda model: model.graph.node[0].ClearField('name'), 'was changed after mmacs wrote it'),
        (lambda model: model.ClearField('metadata_props'), 'was not written by mmacs'),
        (lambda model: model.metadata_props.pop(), 'was changed after mmacs wrote it'),
        (set_property('classes', '["a", 3]'), 'metadata .* are damaged: classes are no names'),
        (set_property('classes', '[' * 100_000), 'metadata .* are damaged'),
        (set_property('task', '"segmentation"'), "metadata .* are damaged: task is 'segmentation'"),
        (set_property('preprocessing', '{"pad": {"divisor": -4}}'), 'damaged: -4 is no size in pixels'),
        (set_property('preprocessing', '{"resize": {"scale": "1"}}'), "damaged: '1' is not two sizes"),
        (set_property('preprocessing', '{"resize": {"scale": [1]}}'), r'damaged: \[1\] is not two sizes'),
        (set_property('preprocessing', '{"resize": "1"}'), 'metadata .* are damaged'),
        (set_property('preprocessing', '{"mean": [NaN, 0, 0]}'), 'is not a number per channel'),
        (set_property('preprocessing', '{"pad": []}'), 'metadata .* are damaged'),
        (set_property('preprocessing', '{"resize": {"scale": 4, "edge": ["x"]}}'), r"damaged: edge is \['x'\]"),
        (set_property('preprocessing', '{"resize": {"scale": [4, 4], "backend": "x"}}'), 'metadata .* are damaged'),
        (set_property('preprocessing', '[]'), 'metadata .* are damaged'),
    ],
)
def test_changed_and_foreign_files_are_refused(tmp_path, capsys, change, message):
    path = saved(changed(change), tmp_path / 'changed.onnx')
    with pytest.raises(MmacsError, match=message):
        MODELS.build(dict(type='mmacs.ExportedModel', file=path))
    Image.new('RGB', (8, 8)).save(tmp_path / 'picture.png')
    assert main([path, str(tmp_path / 'picture.png')]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith('error: ')


def test_metadata_come_back_and_the_digest_is_of_the_graph_alone():
    how = Preprocessing(resize=dict(scale=[1333, 800], keep_ratio=True), crop=[224, 224])
    metadata = Metadata(task='detection', classes=['a'], recipe={'preset': 'w4a4'}, preprocessing=how)
    model = residual_graph()
    write_metadata(model, metadata)
    write_metadata(model, metadata)
    properties = {one.key: one.value for one in model.metadata_props}
    assert len(properties) == len(model.metadata_props)
    assert read_metadata(properties, 'file') == metadata
    model.metadata_props.add(key='author', value='me')
    require_untouched(model, 'file')
    model.graph.initializer[0].ClearField('raw_data')
    with pytest.raises(MmacsError, match='was changed'):
        require_untouched(model, 'file')
    require_untouched(onnx.ModelProto(), 'a foreign file')


class MultiScaleFlip:
    """A transform of one's own, given as a class."""


NORMAL = dict(mean=[10.0, 20.0, 30.0], std=[1.0, 2.0, 3.0])
LOAD = dict(type='LoadImageFromFile')
SQUARE = dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0)))
PIPELINES = {
    'detector': (
        [LOAD, dict(type='Resize', scale=(1333, 800), keep_ratio=True), dict(type='PackDetInputs')],
        dict(NORMAL, bgr_to_rgb=True, pad_size_divisor=32),
    ),
    'yolox': (
        [LOAD, dict(type='mmdet.Resize', scale=(416, 416), keep_ratio=True), SQUARE],
        dict(pad_size_divisor=32),
    ),
    'classifier': (
        [
            dict(type='ResizeEdge', scale=64, edge='short'),
            dict(type='CenterCrop', crop_size=56),
            dict(type='PackInputs'),
        ],
        dict(NORMAL, to_rgb=True),
    ),
    'oblong classifier': (
        [
            dict(type='ResizeEdge', scale=70, edge='width', interpolation='bicubic', backend='pillow'),
            dict(type='CenterCrop', crop_size=(50, 30)),  # width and height
        ],
        dict(NORMAL, to_rgb=True),
    ),
    'efficientnet': ([dict(type='EfficientNetCenterCrop', crop_size=56, crop_padding=8)], dict(NORMAL, to_rgb=True)),
    'pillow': ([dict(type='Resize', scale=(20, 30), backend='pillow', interpolation='hamming')], {}),
    'area': ([dict(type='ResizeEdge', scale=30, edge='long', interpolation='area')], {}),
    'nearest': ([dict(type='Resize', scale=(50, 31), interpolation='nearest')], {}),
}


def test_preprocessing_of_configs():
    found = {name: preprocessing_of(*settings) for name, settings in PIPELINES.items()}
    assert found['detector'].mean == [30, 20, 10]  # in the order of the input
    assert found['detector'].pad == {'divisor': 32, 'value': [30, 20, 10]}
    how = {'interpolation': 'bilinear', 'backend': 'cv2'}
    assert found['detector'].resize == {'scale': [1333, 800], 'keep_ratio': True, **how}
    how = {'interpolation': 'bicubic', 'backend': 'pillow'}
    assert found['oblong classifier'].resize == {'scale': 70, 'edge': 'width', **how}
    assert found['yolox'].pad == {'divisor': 32, 'value': [114.0] * 3, 'square': True}
    assert found['classifier'].crop == [56, 56]


@pytest.mark.parametrize('size', [(100, 60), (60, 100), (37, 53), (64, 64)])
@pytest.mark.parametrize('name', PIPELINES)
def test_a_picture_becomes_what_the_pipeline_makes_of_it(name, size):
    from mmcv.transforms import Compose
    from mmengine.registry import TRANSFORMS

    scope = 'mmdet' if name in ('detector', 'yolox') else 'mmpretrain'
    steps = [dict(step, _scope_=scope) for step in PIPELINES[name][0] if not step['type'].startswith(('Load', 'Pack'))]
    picture = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    wanted = Compose([TRANSFORMS.build(step) for step in steps])(dict(img=picture[..., ::-1], img_fields=['img']))[
        'img'
    ]
    how = preprocessing_of(*PIPELINES[name])
    pixels, _ = prepared(Image.fromarray(picture), how)
    if 'square' in how.pad:
        pixels = in_one_batch([pixels], how.pad, (None, 3, None, None))[0]
    np.testing.assert_array_equal(pixels, wanted.transpose(2, 0, 1))


def test_the_pipeline_of_data_sets_that_put_others_together():
    first, other = [LOAD, dict(type='Resize', scale=(40, 30))], [LOAD]
    for parts, wanted in (([first, first], first), ([first, other], None), ([], None)):
        dataset = dict(type='Concat', datasets=[dict(pipeline=part, metainfo=dict(classes='ab')) for part in parts])
        found, metainfo = data_of(dict(test_dataloader=dict(dataset=dict(type='Repeat', dataset=dataset))))
        assert found == wanted and metainfo == (dict(classes='ab') if parts else {})
    assert data_of({}) == (None, {})


FIRST = dict(type='Resize', scale=(100, 100))


@pytest.mark.parametrize(
    ('pipeline', 'unknown'),
    [
        ([LOAD, FIRST, dict(type='RandomFlip', prob=0.0), dict(type='LoadAnnotations')], []),
        ([LOAD, dict(type='mmcv.Normalize', mean=[0.0] * 3, std=[1.0] * 3), FIRST], ['Normalize']),
        ([LOAD, FIRST, FIRST], ['Resize']),
        ([LOAD, dict(type='CenterCrop', crop_size=5), FIRST], ['Resize']),
        ([dict(type='Resize', scale_factor=0.5)], ['Resize']),
        ([dict(type='CenterCrop', crop_size=500, auto_pad=True)], ['CenterCrop']),
        ([dict(type=MultiScaleFlip)], ['tests.MultiScaleFlip']),
        ([dict(type='mine.Resize', scale=(100, 100))], ['mine.Resize']),
        ([dict(type='LoadAndBlur'), FIRST], ['LoadAndBlur']),
        ([dict(LOAD, color_type='grayscale')], ['LoadImageFromFile']),
        ([dict(type='Resize', scale=(1333, 1_000_000))], ['Resize']),
        ([dict(type='Resize', scale=(-1, 800))], ['Resize']),
        ([dict(FIRST, interpolation='box')], ['Resize']),  # which cv2 has not
        ([dict(type='Pad', size=640)], ['Pad']),
        ([dict(type='Pad', size_divisor=16, pad_val=114)], ['Pad']),
        ([dict(type='Pad', size_divisor=64, pad_val=114)], []),
        ([dict(type='Pad', size_divisor=48)], []),
        (None, ['a pipeline that is not known']),
    ],
)
def test_transforms_that_a_file_cannot_tell_are_named(pipeline, unknown):
    found = preprocessing_of(pipeline, dict(pad_size_divisor=32))
    assert found.unknown == unknown
    assert found.pad['divisor'] == (96 if pipeline == [dict(type='Pad', size_divisor=48)] else found.pad['divisor'])


@pytest.mark.parametrize(
    ('how', 'words'),
    [
        (Preprocessing(unknown=['Blur', 'Pad']), 'prepares pictures by Blur and Pad, which a file cannot tell'),
        (Preprocessing(unknown=['Blur']), 'on the data of its config it works: `mmacs test CONFIG '),
        (preprocessing_of(None, {}), 'no test pipeline of a config, or several that differ'),
        (Preprocessing(crop=[20, 20]), "crops pictures, and boxes can't be put back"),
        (
            Preprocessing(resize=dict(scale=[9, 9], keep_ratio=True)),
            'a picture of 40 x 1 pixels is too thin',
        ),
    ],
)
def test_a_picture_that_cannot_be_prepared_is_refused(how, words, tmp_path, capsys):
    path = saved(detector_graph(preprocessing=how), tmp_path / 'detector.onnx')
    Image.new('RGB', (40, 1)).save(tmp_path / 'picture.png')
    assert main([path, str(tmp_path / 'picture.png')]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert words in printed


@pytest.mark.parametrize(
    ('task', 'how', 'words'),
    [
        ('detection', Preprocessing(unknown=['Blur']), 'infer` will refuse own.onnx, since the test pipeline prepares'),
        ('detection', Preprocessing(crop=[9, 9]), 'infer` will refuse own.onnx, since the test pipeline crops'),
        ('classification', Preprocessing(crop=[9, 9]), None),
        ('raw', Preprocessing(unknown=['Blur']), None),
    ],
)
def test_what_infer_will_refuse_is_said_as_it_is_exported(task, how, words, monkeypatch):
    said = []
    monkeypatch.setattr('mmacs.deploy.export.print_log', lambda message, *_: said.append(message))
    warn_of_pictures(Exported(None, [], None, None, Metadata(task=task, preprocessing=how), (8, 8)), 'own.onnx')
    assert [words in one for one in said] == ([True] if words else [])


def test_long_edges():
    assert resized_size((100, 50), dict(scale=20, edge='long')) == (20, 10)
    assert resized_size((50, 100), dict(scale=20, edge='long')) == (10, 20)
    assert resized_size((50, 100), dict(scale=[20, 30], keep_ratio=False)) == (20, 30)


def test_a_picture_from_the_command_line(tmp_path, capsys):
    how = Preprocessing(resize=dict(scale=[100, 100], keep_ratio=True))
    path = saved(detector_graph(preprocessing=how), tmp_path / 'detector.onnx')
    Image.new('RGB', (400, 200), 'white').save(tmp_path / 'picture.jpg')
    out = tmp_path / 'drawn' / 'out.png'
    assert main([path, str(tmp_path / 'picture.jpg'), '--threshold', '0.8', '--out', str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == 'b 0.895 at 4.0, 2.0, 36.0, 18.0'  # 1, 0.5, 9, 4.5 of a quarter of the picture
    assert lines[-2:] == ['19 objects with a score of 0.8 or more', f'wrote {out}']
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (200, 400, 3) and (drawn != 255).any()
    Image.new('RGB', (40, 20)).save(tmp_path / 'black.png')
    assert main([path, str(tmp_path / 'black.png'), '--backend', 'openvino']) == 0
    assert capsys.readouterr().out == '0 objects with a score of 0.3 or more\n'


def test_no_box_crosses_a_name(tmp_path):
    low = Detection('b', 0, 0.4, (20.0, 60.0, 90.0, 95.0))
    high = Detection('a', 1, 0.9, (25.0, 20.0, 80.0, 56.0))  # its lower edge lies in the name of the other

    def name_of_low(found):
        draw(Image.new('RGB', (100, 100), 'white'), found, tmp_path / 'out.png')
        with Image.open(tmp_path / 'out.png') as picture:
            return picture.crop((20, 50, 40, 60)).tobytes()

    assert name_of_low([high, low]) == name_of_low([low])


def test_a_picture_that_is_classified(tmp_path, capsys):
    path = saved(classifier_graph(), tmp_path / 'classifier.onnx')
    Image.new('RGB', (8, 8), (9, 0, 0)).save(tmp_path / 'red.png')
    assert main([path, str(tmp_path / 'red.png')]) == 0
    assert capsys.readouterr().out.splitlines()[0] == 'red 1.000'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['none.png'], 'cannot read the picture none.png: No such file or directory'),
        (['text.png'], 'cannot read the picture text.png: it is no image'),
        (['deep.png'], 'cannot read the picture deep.png: its channels have more than 8 bits'),
        (['black.png', '--threshold', '2'], '--threshold is a score from 0 to 1, got 2.0'),
        (['white.png', '--out', 'out.txt'], 'must end in .png, .jpg or .webp'),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    saved(detector_graph(), tmp_path / 'detector.onnx')
    (tmp_path / 'text.png').write_text('text')
    Image.new('I;16', (8, 8), 300).save(tmp_path / 'deep.png')
    Image.new('RGB', (8, 8)).save(tmp_path / 'black.png')
    Image.new('RGB', (8, 8), 'white').save(tmp_path / 'white.png')
    assert main(['detector.onnx', *options]) == 1
    out, printed = capsys.readouterr()
    assert message in printed and len(printed.splitlines()) == 1
    assert out == ''
    assert not (tmp_path / 'out.txt').exists()


def test_the_script_of_the_documentation_needs_no_mmacs(tmp_path):
    text = (REPO / 'docs' / 'deployment.md').read_text()
    (script,) = [block for block in re.findall(r'```python\n(.*?)```', text, re.S) if 'onnxruntime' in block]
    code = [line for line in script.splitlines() if line and not line.startswith(('import', 'from'))]
    assert len(code) <= 30
    imported = set(re.findall(r'^(?:import|from) (\w+)', script, re.M))
    assert imported == {'json', 'sys', 'numpy', 'onnxruntime', 'PIL'}
    how = Preprocessing(resize=dict(scale=[100, 100], keep_ratio=True), pad=dict(divisor=32, value=[1, 2, 3]))
    path = saved(detector_graph(preprocessing=how), tmp_path / 'detector.onnx')
    Image.new('RGB', (400, 200), 'white').save(tmp_path / 'picture.png')
    options = [sys.executable, '-c', script, path, str(tmp_path / 'picture.png')]
    printed = subprocess.run(options, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert printed[1] == 'b 0.895 [4.0, 2.0, 36.0, 18.0]'
    assert len(printed) == 112  # more than MMDetection's 100
