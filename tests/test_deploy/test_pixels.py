"""Pixels within the graph, beside the data preprocessors of the libraries."""

import pytest
import torch
from mmdet.models import DetDataPreprocessor
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmpretrain.models.utils import ClsDataPreprocessor

from mmacs.deploy.pixels import Pixels
from mmacs.utils.errors import MmacsError

NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


@pytest.mark.parametrize(
    'preprocessor',
    [
        DetDataPreprocessor(**NORM, bgr_to_rgb=True),
        DetDataPreprocessor(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]),
        DetDataPreprocessor(),
        ImgDataPreprocessor(**NORM, rgb_to_bgr=True),
        ClsDataPreprocessor(**NORM, to_rgb=True),
        ClsDataPreprocessor(to_rgb=True),
    ],
)
def test_pixels_are_what_the_data_preprocessor_gives(preprocessor):
    images = torch.randint(0, 256, (2, 3, 4, 5)).float()
    expected = preprocessor({'inputs': list(images), 'data_samples': None})['inputs']
    assert torch.equal(Pixels(preprocessor)(images), expected)


def test_a_preprocessor_that_is_not_known_is_refused():
    with pytest.raises(MmacsError, match='BaseDataPreprocessor does to pixels is not known'):
        Pixels(BaseDataPreprocessor())
