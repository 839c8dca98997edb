import logging

import numpy as np
import pytest
import torch

from mmacs.coreset.scoring.teacher_outputs import TeacherOutputs
from mmacs.coreset.scoring.teacher_parts import TeacherParts
from mmacs.utils.errors import MmacsError

KEY, IMAGES = '0123456789abcdef', 20


def rows_of(positions):
    positions = torch.as_tensor(positions)
    return {'probs': torch.stack([positions, positions**2], 1).float(), 'count': positions.int()}


class Teacher:
    """Computes rows, a few images at a time and in an order of its own; keeps which it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, positions, write):
        self.asked.append(positions.tolist())
        for batch in np.array_split(np.random.default_rng(0).permutation(positions), 3):
            write(batch, rows_of(batch))


def require_rows(parts, positions):
    found, expected = parts.rows(positions), rows_of(positions)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in found)


def test_what_is_missing_is_computed_once_and_found_by_later_runs(tmp_path):
    parts, teacher = TeacherParts(tmp_path, KEY, IMAGES), Teacher()
    assert parts.share == 0
    for wanted in ([1, 4, 6, 7], [4, 6, 9], [1, 9], [0, 2, 19]):
        parts.add(np.array(wanted), teacher)
    assert teacher.asked == [[1, 4, 6, 7], [9], [0, 2, 19]] and parts.share == 8 / IMAGES
    again = TeacherParts(tmp_path, KEY, IMAGES)
    for one in (parts, again):
        require_rows(one, np.array([9, 0, 7, 4, 19, 1]))
    again.add(np.array([4, 5]), teacher)
    assert teacher.asked[3:] == [[5]] and again.share == 9 / IMAGES
    assert TeacherParts(tmp_path, KEY[::-1], IMAGES).share == 0  # of another key


@pytest.mark.parametrize('damage', ['rows', 'name', 'about'])
def test_a_damaged_part_is_computed_anew(tmp_path, damage):
    parts, teacher = TeacherParts(tmp_path, KEY, IMAGES), Teacher()
    parts.add(np.array([1, 2, 3]), teacher)
    parts.add(np.array([4, 5]), teacher)
    (about,) = (path for path in tmp_path.glob('*/*/cache.json') if '"num_images": 3' in path.read_text())
    if damage == 'rows':
        file = about.with_name('probs.npy')
        file.write_bytes(file.read_bytes()[:-1] + b'x')
    elif damage == 'about':
        about.write_text('{')
    else:
        about.parent.rename(about.parent.with_name('f' * 16))
    again = TeacherParts(tmp_path, KEY, IMAGES)
    assert again.share == 2 / IMAGES
    again.add(np.array([1, 2, 3, 4]), teacher)
    require_rows(again, np.array([5, 3, 1, 4]))
    assert teacher.asked[2:] == [[1, 2, 3]]


def test_an_interrupted_part_leaves_nothing(tmp_path):
    def broken(positions, write):
        write(positions[:1], rows_of(positions[:1]))
        raise MmacsError('the teacher is gone')

    parts = TeacherParts(tmp_path, KEY, IMAGES)
    with pytest.raises(MmacsError, match='gone'):
        parts.add(np.array([1, 2]), broken)
    assert parts.share == 0 and not [*tmp_path.glob('*/*')]
    parts.add(np.array([1, 2]), Teacher())
    require_rows(parts, np.array([2, 1]))


class Outputs(Teacher):
    """In the place of a scoring pass, too."""

    data, proxy = range(IMAGES), type('Proxy', (), dict(resolution=1.0, precision='float32'))

    def teacher_outputs(self, scorer, teacher, columns, positions, write):
        assert teacher is MODEL and columns == ['ds']
        self(positions, write)


class Scorer:
    teacher_columns = frozenset({'ds'})


MODEL = torch.nn.Linear(1, 1)


def test_the_teacher_stays_until_the_outputs_of_all_images_are_there(tmp_path, caplog):
    def outputs():
        return TeacherOutputs(tmp_path, MODEL, Scorer(), ['evs', 'ds'], weights='w')

    own, scoring = outputs(), Outputs()
    with caplog.at_level(logging.INFO, 'mmengine'):
        for wanted in (np.arange(0, 12), np.arange(6, IMAGES)):
            own.find(scoring)
            assert own.read is None and own.model() is MODEL
            read = own.fill(scoring, wanted)
            own.release()
            assert torch.equal(read(wanted[:3])['probs'], rows_of(wanted[:3])['probs'])
    assert own.share == 1 and own.read is not None
    with pytest.raises(AssertionError, match='nobody needs the teacher'):
        own.model()
    later = outputs()
    later.find(scoring)
    assert later.share == 1 and [len(asked) for asked in scoring.asked] == [12, 8]
    whole = outputs()
    whole.find(Outputs())
    everything = np.arange(IMAGES)
    assert torch.equal(whole.fill(scoring, everything)(everything)['count'], rows_of(everything)['count'])
