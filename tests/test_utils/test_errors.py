import pytest

from mmacs.utils.errors import MmacsError, nearest, printable


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('é 中 🙂', 'é 中 🙂'),
        ('a\nerror: all is well', r'a\nerror: all is well'),
        ('a\r\x1b[2K\x1b]0;title\x07', r'a\r\x1b[2K\x1b]0;title\x07'),
        ('\x9b2K\x7f', r'\x9b2K\x7f'),
        ('\u202efdp.exe\u2028\u200b', r'\u202efdp.exe\u2028\u200b'),
        ('\ud800', r'\ud800'),
    ],
)
def test_only_what_can_be_seen_is_printed(text, shown):
    assert printable(text) == shown == str(MmacsError(text))
    shown.encode()


def test_long_texts_keep_their_ends():
    found = printable('a' * 10**6 + 'end', 100)
    assert len(found) < 110 and found.startswith('aaa') and found.endswith('end')
    assert len(str(MmacsError('a' * 10**6))) < 2100


def test_an_error_from_a_worker_is_the_sentence_alone():
    text = 'Caught MmacsError in DataLoader worker process 0.\nTraceback:\nmmacs.utils.errors.MmacsError: a sentence\n'
    assert str(MmacsError(text)) == 'a sentence'
    pretended = MmacsError('cannot read Caught MmacsError in\nmmacs.utils.errors.MmacsError: all is well')
    assert str(pretended).startswith('cannot read')


@pytest.mark.parametrize(
    ('name', 'near'),
    [('SDG', 'SGD'), ('amadw', 'AdamW'), ('Adma', 'Adam'), ('sgd', 'SGD'), ('rmspop', 'RMSprop'), ('Zebra', None)],
)
def test_the_nearest_name_in_whatever_case(name, near):
    assert nearest(name, ['Adam', 'AdamW', 'Adamax', 'ASGD', 'SGD', 'RMSprop', 'Zero'], cutoff=0.7) == near
