import pytest
from mmdet.models.data_preprocessors import BatchSyncRandomResize
from torch import nn

from mmacs.adapters.batch_sizes import batch_sizes, use_batch_sizes
from mmacs.utils.errors import MmacsError


def model():
    return nn.Sequential(nn.Identity(), BatchSyncRandomResize((96, 128)))


def test_a_size_goes_from_one_model_to_the_next():
    one, other = model(), model()
    assert batch_sizes(one) == {}
    one[1]._input_size = (96, 128)
    use_batch_sizes(other, batch_sizes(one))
    assert other[1]._input_size == (96, 128)


@pytest.mark.parametrize('sizes', [3, {'1': [96]}, {'1': [96, -1]}, {'1': [96, 1.5]}, {'1': 'ab'}])
def test_what_is_no_size_is_refused(sizes):
    with pytest.raises(MmacsError, match='sizes of batches'):
        use_batch_sizes(model(), sizes)
