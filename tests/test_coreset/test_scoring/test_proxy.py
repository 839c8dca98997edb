import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmacs.coreset.scoring.proxy import Proxy
from mmacs.utils.errors import MmacsError


def sample(img_shape=(60, 90), padded=(64, 96), boxes=((8, 4, 48, 40), (0, 0, 90, 60))):
    found = DetDataSample(metainfo=dict(img_shape=img_shape, pad_shape=padded, batch_input_shape=padded, img_id=7))
    found.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor([0, 1]))
    found.ignored_instances = InstanceData(bboxes=torch.tensor([[2.0, 2, 6, 10]]), labels=torch.tensor([2]))
    return found


def shrunk(resolution=0.5, divisor=32, shape=(64, 96), samples=None):
    return Proxy(resolution).shrink(torch.rand(1, 3, *shape), samples or [sample()], divisor)


def test_boxes_and_shapes_shrink_with_the_image():
    inputs, (found,) = shrunk()
    assert inputs.shape == (1, 3, 32, 64)
    assert found.gt_instances.bboxes.tolist() == [[4, 2, 24, 20], [0, 0, 45, 30]]
    assert found.ignored_instances.bboxes.tolist() == [[1, 1, 3, 5]]
    assert found.gt_instances.labels.tolist() == [0, 1]
    assert found.img_shape == (30, 45) and found.img_id == 7
    assert found.batch_input_shape == found.pad_shape == (32, 64)
    assert 'ori_shape' not in found


def test_an_object_stays_where_it_is_in_the_image():
    image = torch.zeros(1, 3, 64, 96)
    image[:, :, 8:40, 16:80] = 1
    inputs, (found,) = Proxy(0.5).shrink(image, [sample(boxes=((16, 8, 80, 40), (0, 0, 1, 1)))], 32)
    x1, y1, x2, y2 = found.gt_instances.bboxes[0].int().tolist()
    inside = inputs[0, 0, y1:y2, x1:x2]
    assert inside.mean() > 0.95 and inputs.sum() / 3 == pytest.approx(inside.numel(), rel=0.02)


@pytest.mark.parametrize('divisor', [1, 7, 32])
@pytest.mark.parametrize('resolution', [0.3, 0.5, 0.77])
def test_inputs_are_padded_with_zeros_to_the_divisor(resolution, divisor):
    inputs, (found,) = shrunk(resolution, divisor)
    height, width = (round(side * resolution) for side in (64, 96))
    assert inputs.shape[2] % divisor == inputs.shape[3] % divisor == 0
    assert 0 <= inputs.shape[2] - height < divisor and 0 <= inputs.shape[3] - width < divisor
    assert inputs[..., :height, :width].min() > 0
    assert not inputs[..., height:, :].any() and not inputs[..., width:].any()
    assert found.batch_input_shape == tuple(inputs.shape[-2:])


def test_what_was_given_stays_as_it_is():
    given, inputs = sample(), torch.rand(1, 3, 64, 96)
    before, pixels = given.gt_instances.bboxes.clone(), inputs.clone()
    Proxy(0.5).shrink(inputs, [given], 32)
    assert torch.equal(given.gt_instances.bboxes, before)
    assert given.ignored_instances.bboxes.tolist() == [[2, 2, 6, 10]]
    assert given.img_shape == (60, 90) and given.batch_input_shape == (64, 96)
    assert torch.equal(inputs, pixels)


def test_full_resolution_hands_on_what_it_got():
    inputs, samples = torch.rand(1, 3, 64, 96), [sample()]
    found = Proxy().shrink(inputs, samples, 32)
    assert found[0] is inputs and found[1] is samples
    assert Proxy().exact and not Proxy(0.5).exact and not Proxy(1, 'bfloat16').exact


def test_samples_of_a_classifier_have_a_label_and_no_boxes():
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    given = DataSample(metainfo=dict(img_shape=(32, 32))).set_gt_label(3)
    inputs, (found,) = Proxy(0.25).shrink(torch.rand(1, 3, 32, 32), [given], 1)
    assert inputs.shape == (1, 3, 8, 8)
    assert found.gt_label.tolist() == [3] and found.img_shape == (8, 8) and given.img_shape == (32, 32)


def test_a_tiny_image_keeps_a_pixel():
    assert shrunk(0.01, 1, (4, 30))[0].shape == (1, 3, 1, 1)


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_models_compute_in_the_precision(precision):
    with Proxy(precision=precision).autocast(torch.device('cpu')):
        assert torch.nn.Linear(2, 2)(torch.rand(1, 2)).dtype == getattr(torch, precision)


@pytest.mark.parametrize('resolution', [0, -0.5, 1.01, True, '0.5', np.nan, None])
def test_resolutions_out_of_range(resolution):
    with pytest.raises(MmacsError, match='resolution must be above 0 and at most 1'):
        Proxy(resolution)


def test_an_unknown_precision():
    with pytest.raises(MmacsError, match="unknown precision 'bfloat': did you mean 'bfloat16'"):
        Proxy(1.0, 'bfloat')
