"""Every family that is exported, from calibration to both runtimes, held to the bars of the proof.

They take minutes. A few run always, the rest by ``pytest -m thorough tests/test_deploy/test_families.py``.
"""

import pytest
import torch

from mmacs.adapters.base import adapter_of
from mmacs.deploy.export import exported
from mmacs.deploy.pixels import Pixels
from mmacs.deploy.proof.prove import prove
from tests.test_deploy.classifiers import CLASSIFIERS, classifier
from tests.test_deploy.detectors import detector
from tests.test_deploy.models import quantized

FAMILIES = {
    'RetinaNet': 'w8a8-int',
    'FCOS': 'w4a4-int',
    'ATSS': 'w8a8',
    'GFL': 'w4a4',
    'RTMDet': 'w4a4-int',
    'YOLOX': 'w8a8',
    'FasterRCNN': 'w4a4',
    'DETR': 'w8a8',
    'DABDETR': 'w4a4-int',
    'ResNet-18': 'w4a4-int',
    'ResNet-20': 'w4a4',
    'MobileNetV2': 'w4a4-int',
    'RepVGG': 'w4a4',
    'EfficientNet-Lite0': 'w8a8',
}
WHOLE = ('YOLOX', 'FasterRCNN')  # with boxes, which take long to trace; of the others what their heads predict
ALWAYS = ('FasterRCNN',)  # differs most from what other tests export


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.thorough) for name in FAMILIES]
)
@torch.no_grad()
def test_a_family_is_exported_and_proven(name):
    build, size = (classifier, (64, 64)) if name in CLASSIFIERS else (detector, (96, 128))
    model = build(name)
    pixels = Pixels(model.data_preprocessor)
    images = [torch.randint(0, 256, (2, 3, *size)).float() for _ in range(3)]
    quantized(model, FAMILIES[name], images, lambda batch: adapter_of(model).dry_run(pixels(batch)))
    found = exported(model, raw=name not in WHOLE, shape=(32, 32))  # an example, smaller than a stride
    proof = prove(found.model, found.reference, found.simulation, [images[0], images[1][:1, :, :64, :96]])
    assert proof.failures == []
    nodes = [node.op_type for node in found.model.graph.node]
    assert nodes.count('NonMaxSuppression') == {'YOLOX': 1, 'FasterRCNN': 2}.get(name, 0) and 'NonZero' not in nodes
    if name == 'FasterRCNN':  # in a YOLOX of random weights the smallest difference grows from layer to layer
        for backend, report in proof.runtimes.items():
            outputs = report['outputs']
            assert outputs['detections'] > 60 and outputs['matched'] > 0.9 * outputs['detections'], backend
