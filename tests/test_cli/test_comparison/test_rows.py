import subprocess
import sys

import pytest

from mmacs.cli.comparison.rows import add_row, read_rows
from mmacs.utils.errors import MmacsError
from tests.test_evaluation.test_comparison import row

ADD = """
import sys
from mmacs.cli.comparison.rows import add_row
from tests.test_evaluation.test_comparison import row
for seed in range(15):
    add_row(sys.argv[1], row(sys.argv[2], seed))
"""


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [
        row('mmacs', 3, 0.123456789012345, metrics={'coco/AP, "all"': -1.0}, machine='Xeon, "old"', tuned=True),
        row('', 0, stage='ptq', fraction=None, as_long_as=''),
        row('rs2', 0, as_long_as='mmacs'),
    ]
    for one in rows:
        add_row(tmp_path / 'results' / 'a.csv', one)
    assert read_rows(tmp_path / 'results' / 'a.csv') == rows
    head, first, *_ = (tmp_path / 'results' / 'a.csv').read_text().splitlines()
    assert 'selection_seconds,total_seconds,' in head
    assert ',10.0,0.0,10.0,' in first
    assert read_rows(tmp_path / 'none.csv') == []


def test_a_row_takes_the_place_of_one_of_the_same_settings(tmp_path):
    add_row(tmp_path / 'a.csv', row('rs2', 0, 0.1, settings='x'))
    add_row(tmp_path / 'a.csv', row('rs2', 1, 0.2, settings='y'))
    assert [one.value for one in add_row(tmp_path / 'a.csv', row('rs2', 0, 0.3, settings='x'))] == [0.2, 0.3]


def test_two_processes_lose_no_rows(tmp_path):
    names = ('rs2', 'mmacs')
    running = [subprocess.Popen([sys.executable, '-c', ADD, str(tmp_path / 'a.csv'), name]) for name in names]
    assert [process.wait() for process in running] == [0, 0]
    assert len(read_rows(tmp_path / 'a.csv')) == 30
    assert [path.name for path in tmp_path.iterdir() if path.suffix != '.lock'] == ['a.csv']


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('total_seconds', 'seconds', 'its columns must be grid, stage'),
        ('rs2', 'rs2,more', 'line 2 has 23 values, not 22'),
        (',10,100,', ',ten,100,', "line 2: epochs is 'ten'"),
        (',0.5,', ',nan,', "line 2: value is 'nan'"),
        (',False', ',no', "line 2: tuned is 'no'"),
        ('{""AP"": 0.5}', '[]', "line 2: metrics is '\\[\\]'"),
        ('grid,', '<<<<<<< ours\ngrid,', 'its columns must be'),
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_stays(tmp_path, old, new, message):
    path = tmp_path / 'a.csv'
    add_row(path, row())
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    before = path.read_bytes()
    with pytest.raises(MmacsError, match=f'a.csv holds no rows of a comparison .*{message}.*mend it, or move it away'):
        add_row(path, row('mmacs'))
    assert path.read_bytes() == before
