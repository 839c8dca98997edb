from dataclasses import dataclass

import pytest

from mmacs.utils.errors import MmacsError
from mmacs.utils.settings import read_group


@dataclass(frozen=True)
class Sizes:
    width: int = 1
    height: int = 2


def test_what_is_left_out_has_its_default():
    assert read_group(Sizes, 'sizes', None) == Sizes()
    assert read_group(Sizes, 'sizes', dict(height=5)) == Sizes(1, 5)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (dict(widht=1), "unknown setting of sizes 'widht': did you mean 'width'"),
        ([1, 2], r'sizes must be a dict of settings, such as sizes=dict\(width=...\), got \[1, 2\]'),
    ],
)
def test_mistakes(given, message):
    with pytest.raises(MmacsError, match=message):
        read_group(Sizes, 'sizes', given)
