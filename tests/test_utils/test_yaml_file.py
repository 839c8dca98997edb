import pytest

from mmacs.utils.errors import MmacsError
from mmacs.utils.yaml_file import read_mapping


def read(tmp_path, text):
    (tmp_path / 'a.yml').write_text(text)
    return read_mapping(tmp_path / 'a.yml', 'grid')


def test_numbers_without_a_point_are_numbers(tmp_path):
    assert read(tmp_path, 'a: 1e-3\nb: -2E5\nc: 1.5e+2\nd: 3\ne: e5\n') == {
        'a': 1e-3,
        'b': -2e5,
        'c': 150,
        'd': 3,
        'e': 'e5',
    }


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: 1\na: 2\n', "it has the key 'a' twice \\(line 2\\)"),
        ('a: {b: 1, b: 2}\n', "it has the key 'b' twice"),
        ('a: &x [1]\nb: *x\n', 'aliases .* are not read here: write it out \\(line 2\\)'),
        ('a: [1\n', 'cannot read the grid'),
        ('a: !!python/object/apply:os.system [ls]\n', 'could not determine a constructor'),
        ('- a\n', 'is no mapping of names to values'),
        ('', 'is no mapping of names to values'),
        ('1: a\n', 'is no mapping of names to values'),
        ('a: ' + '[' * 5000, 'it is nested too deep'),
    ],
)
def test_what_is_no_mapping_of_plain_values_is_told_in_one_sentence(tmp_path, text, message):
    with pytest.raises(MmacsError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path):
    with pytest.raises(MmacsError, match='cannot read the grid .*: No such file'):
        read_mapping(tmp_path / 'b.yml', 'grid')
    (tmp_path / 'c.yml').write_bytes(b'a: \xff\xfe')
    with pytest.raises(MmacsError, match='cannot read the grid'):
        read_mapping(tmp_path / 'c.yml', 'grid')
