"""Checkpoints from anybody: what torch.save and MMEngine write is read as torch reads it, all else is refused."""

import io
import pickle
import random
import re
import struct
import sys
import tarfile
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import PretrainedInit
from mmengine.optim import OneCycleLR
from mmengine.runner import CheckpointLoader, FlexibleRunner, Runner, load_checkpoint

from mmacs.cli.publish import publish
from mmacs.teacher.model import load_teacher
from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.checkpoints import guard_loading
from mmacs.utils.errors import MmacsError
from mmacs.utils.replaced import replaced

guard_loading()  # as importing mmacs.registry does
CANARY = 'mmacs_checkpoint_was_executed'
CODE = f"__import__('sys').modules.__setitem__({CANARY!r}, 1)"


@pytest.fixture(autouse=True)
def _nothing_is_executed():
    yield
    assert sys.modules.pop(CANARY, None) is None


# ---------------------------------------------------------------- pickles by hand
def name(full):
    module, _, attribute = full.rpartition('.')
    return f'c{module}\n{attribute}\n'.encode()


def text(value):
    encoded = value.encode('utf-8', 'surrogatepass')
    return b'X' + struct.pack('<I', len(encoded)) + encoded


def number(value):
    if -(2**31) <= value < 2**31:
        return b'J' + struct.pack('<i', value)
    encoded = pickle.encode_long(value)
    return b'\x8a' + bytes([len(encoded)]) + encoded


def group(*parts):
    return b'(' + b''.join(parts) + b't'


def call(function, *arguments):
    return (function if isinstance(function, bytes) else name(function)) + group(*arguments) + b'R'


def content(value):
    return call('_codecs.encode', text(value), text('latin1'))


def mapping(*items):
    return b'}(' + b''.join(items) + b'u'


def storage(count=4, key='0', kind='torch.FloatStorage'):
    return group(text('storage'), name(kind), text(key), text('cpu'), number(count)) + b'Q'


def tensor(size=(4,), stride=(1,), offset=0, of=None, **others):
    parts = [group(*map(number, size)), group(*map(number, stride))]
    return call('torch._utils._rebuild_tensor_v2', of or storage(**others), number(offset), *parts, b'\x89', b'N')


def dtype(kind, *state):
    return call('numpy.dtype', text(kind), b'\x89', b'\x88') + (group(*state) + b'b' if state else b'')


def array(shape, kind, data):
    empty = call('numpy.core.multiarray._reconstruct', name('numpy.ndarray'), group(number(0)), content('b'))
    return empty + group(number(1), group(*map(number, shape)), kind, b'\x89', data) + b'b'


def nested(opening, closing, depth=200_000):
    return opening * depth + b'K\x01' + closing * depth


def checkpoint(value, key='x'):
    """A pickle of a dict with a sound weight and something else."""
    weights = mapping(text('w'), tensor())
    return b'\x80\x02' + mapping(text('state_dict'), weights, text(key), value) + b'.'


def write(path, pickled, compression=zipfile.ZIP_STORED, records=None):
    records = {'0': b'\0' * 16} if records is None else records
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', pickled)
        for key, data in records.items():
            archive.writestr(f'archive/data/{key}', data)
    return path


HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
SCHEDULE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
REBUILD = 'torch._tensor._rebuild_from_type_v2'
FUNCTIONS = (
    *('os.system', 'posix.system', 'builtins.eval', 'builtins.exec', 'builtins.__import__', '__builtin__.eval'),
    *('subprocess.Popen', 'runpy.run_path', 'importlib.import_module', 'shutil.rmtree', 'pathlib.Path.unlink'),
    *('functools.partial', 'operator.attrgetter', 'operator.methodcaller', 'types.FunctionType', 'types.CodeType'),
    *('torch.load', 'torch.serialization.load', 'torch.hub.load', 'torch.jit.load', 'torch.storage._load_from_bytes'),
    *(
        'torch._utils._rebuild_wrapper_subclass',
        'torch._utils._rebuild_sparse_tensor',
        'torch.nn.modules.linear.Linear',
    ),
    *(
        'numpy.load',
        'numpy.fromfile',
        'numpy.memmap',
        'numpy.ndarray',
        'numpy.rec.array',
        'numpy.core.records.recarray',
    ),
    *('mmengine.config.config.Config.fromstring', 'argparse.Namespace'),
    *('builtins.bytearray', 'builtins.type', 'builtins.setattr', 'builtins.open', 'copyreg._reconstructor'),
    *('collections.deque', 'collections.UserDict', 'pickle.loads', 'mmacs.hooks.coreset_hook.CoresetHook'),
)
ROWS = {
    **{f'a call of {function}': (call(function, text(CODE)), 'something other') for function in FUNCTIONS},
    **{f'an object of {function}': (name(function) + b')\x81', 'something other') for function in FUNCTIONS[-8:]},
    # through what is allowed
    'getattr of a name': (call('builtins.getattr', name(HISTORY), text('__init__')), '__init__ of'),
    'getattr that leads to globals': (
        call('builtins.getattr', call('builtins.getattr', name(HISTORY), text('min')), text('__globals__')),
        'damaged',
    ),
    'getattr of text': (call('builtins.getattr', text(''), text('__class__')), 'damaged'),
    'getattr by _rebuild_from_type_v2': (
        call(REBUILD, name('builtins.getattr'), name('torch.Tensor'), group(name(HISTORY), text('min')), b'}'),
        'a kind of tensor',
    ),
    'a state by _rebuild_from_type_v2': (
        call(REBUILD, name('torch._utils._rebuild_tensor_v2'), name(HISTORY), group(), b'}'),
        'a kind of tensor',
    ),
    'a call of what was built': (call(call('builtins.getattr', name(HISTORY), text('min')), b'N'), 'a call of'),
    'a function as a value': (name('collections.OrderedDict'), 'collections.OrderedDict'),
    'attributes of a class': (name(HISTORY) + mapping(text('min'), b'N') + b'b', 'a state for'),
    'attributes of a tensor': (tensor() + mapping(text('shape'), b'N') + b'b', 'a state for'),
    'attributes of a dict': (b'}' + mapping(text('get'), b'N') + b'b', 'a state for'),
    'attributes of an OrderedDict': (
        call('collections.OrderedDict') + mapping(text('items'), b'N') + b'b',
        'attributes of an OrderedDict',
    ),
    'items of a tensor': (tensor() + b'(' + number(0) + b'K\x01u', 'damaged'),
    'items of text': (text('a') + b'(K\x01e', 'damaged'),
    'an odd number of items': (b'}(K\x01u', 'damaged'),
    'a factory that is a function': (call('collections.defaultdict', name('builtins.getattr')), 'damaged'),
    'a set of lists': (call('builtins.set', b'](]e'), 'damaged'),
    'a history without numbers': (
        name(HISTORY) + b')\x81' + mapping(text('_log_history'), text('a'), text('_count_history'), text('b')) + b'b',
        'damaged',
    ),
    # numpy
    'an array of objects': (array((1,), dtype('O8'), content('\x41' * 8)), 'a numpy array of O8'),
    'an array with a list of objects': (array((1,), dtype('O'), b'](Ne'), 'a numpy array of O'),
    'a scalar object': (call('numpy.core.multiarray.scalar', dtype('O8'), content('A' * 8)), 'a numpy array of O8'),
    'a structured array': (array((1,), dtype('V8'), content('A' * 8)), 'a numpy array of V8'),
    'a dtype with objects as fields': (
        dtype('f8', number(3), text('<'), b'N', group(text('a')), mapping(text('a'), b'N'), number(8), number(1)),
        'fields',
    ),
    'a dtype with an object below it': (
        dtype('f8', number(3), text('<'), group(b'N'), b'N', b'N', number(8), number(1), number(0)),
        'fields',
    ),
    'a numpy array of dates': (array((1,), dtype('M8'), content('A' * 8)), 'a numpy array of M8'),
    'a numpy array that is too short': (array((1000,), dtype('f8'), content('A' * 8)), 'damaged'),
    'a numpy array of negative size': (array((-1,), dtype('f8'), content('A' * 8)), 'damaged'),
    'a numpy array of 10^15': (array((10**15,), dtype('f8'), content('')), 'damaged'),
    'a numpy array without a type': (array((1,), b'N', content('A')), 'damaged'),
    'a kind of array': (
        call('numpy.core.multiarray._reconstruct', name('torch.Tensor'), group(number(0)), content('b')),
        'a kind of numpy array',
    ),
    # sizes
    'a tensor of 10^12': (tensor((10**12,)), 'damaged'),
    'a tensor that repeats its storage': (tensor((10**6, 10**6), (0, 0)), 'damaged'),
    'a tensor behind its storage': (tensor((4,), (1,), 10), 'damaged'),
    'a tensor with long steps': (tensor((2,), (2**62,)), 'damaged'),
    'a tensor with negative steps': (tensor((4,), (-1,), 3), 'damaged'),
    'a tensor of 10^5 dimensions': (tensor((10**600,) * 10**5, (1,) * 10**5), 'damaged'),
    'a tensor of negative size': (tensor((-4,)), 'damaged'),
    'a tensor of sizes that are no numbers': (
        call('torch._utils._rebuild_tensor_v2', storage(), number(0), group(text('4')), group(), b'\x89', b'N'),
        'damaged',
    ),
    'a tensor with fewer steps': (tensor((2, 2), (1,)), 'damaged'),
    'a storage of 10^12': (tensor(count=10**12), 'damaged'),
    'a storage of another size': (tensor(count=5), 'damaged'),
    'a storage of a negative size': (tensor(count=-1), 'damaged'),
    'a storage that is not there': (tensor(key='7'), 'damaged'),
    'a storage outside of the archive': (tensor(key='../../etc/passwd'), 'damaged'),
    'a storage without a type': (
        tensor(of=group(text('storage'), text('f'), text('0'), b'N', number(4)) + b'Q'),
        'some',
    ),
    'a module with its source': (
        group(text('module'), b'N', text('a'), text('b'), number(1)) + b'Q',
        'a persistent id',
    ),
    'a persistent id of text': (text('0') + b'Q', 'damaged'),
    'text that is longer than the file': (b'X' + struct.pack('<I', 2**32 - 1) + b'a', 'damaged'),
    # shapes of values
    'a list of lists of lists': (nested(b']', b'a'), 'nested more than 100 deep'),
    'a tuple of tuples': (b'K\x01' + b'\x85' * 200_000, 'nested more than 100 deep'),
    'a dict of dicts': (b'}K\x01' * 200_000 + b'N' + b's' * 200_000, 'nested more than 100 deep'),
    'a tuple of tuples as a key': (b'}K\x01' + b'\x85' * 200_000 + b'Ns', 'damaged'),
    'a list that holds itself': (b']q\x01h\x01a', 'holds itself'),
    'a dict that holds itself': (b'}q\x01' + text('a') + b'h\x01s', 'holds itself'),
    'lists of doubled lists': (
        b'(]q\x00' + b''.join(b'](h%ch%ceq%c' % (n, n, n + 1) for n in range(40)) + b't',
        'more than 10000000 values',
    ),
    'a memo that is empty': (b'h\x63', 'damaged'),
    'a stack that is empty': (b'0000', 'damaged'),
    'a protocol of the future': (b'\x80\xff', 'pickle protocol 255, not 2'),
    'frames, of protocol 4': (b'\x95' + b'\0' * 8, 'damaged'),
    'opcodes of protocol 0': (b"S'a'\n", 'damaged'),
    'a persistent id of protocol 0': (b'Pstorage\n', 'damaged'),
    'an extension': (b'\x82\x01', 'damaged'),
    'a name on the stack': (text('os') + text('system') + b'\x93', 'damaged'),
    'an instance of protocol 0': (b'(' + text(CODE) + b'ibuiltins\neval\n', 'damaged'),
    'an object of protocol 1': (b'(' + name('builtins.eval') + text(CODE) + b'o', 'something other'),
    # text
    'an escape sequence': (text('\x1b[2Kerror: all is well'), r'control characters (\x1b)'),
    'an escape sequence in one character': (text('\x9b2K'), r'control characters (\x9b)'),
    'text that turns around': (text('\u202efdp.exe'), r'control characters (\u202e)'),
    'half of a character': (text('\ud800'), r'control characters (\ud800)'),
    'a name that is a text': (mapping(text('w\nerror: all is well'), b'N'), r'the name w\nerror: all is well'),
    'a name without end': (mapping(text('w' * 10**6), b'N'), 'the name wwww'),
    'a function whose name is a text': (call('os.\x1b[2Kall is well', b'N'), r'os.\x1b[2Kall is well'),
    'text in an array': (array((1,), dtype('U1'), content('\x1b\0\0\0')), 'control characters'),
}


@pytest.mark.parametrize('row', ROWS)
def test_a_hostile_checkpoint_is_refused_in_one_sentence(tmp_path, row):
    value, message = ROWS[row]
    path = write(tmp_path / 'epoch_1.pth', checkpoint(value))
    with pytest.raises(MmacsError) as caught:
        read_checkpoint(path)
    said = str(caught.value)
    assert message in said and 'epoch_1.pth' in said
    assert said.isprintable() and len(said) < 800


def pickled(*items):
    return b'\x80\x02' + mapping(*items) + b'.'


SHAPES = {
    'a list': (b'\x80\x02].', 'holds a list, not a dict of weights'),
    'a tensor': (b'\x80\x02' + tensor() + b'.', 'holds a Tensor, not a dict'),
    'a state_dict that is a list': (pickled(text('state_dict'), b']'), 'its state_dict is a list'),
    'a state_dict with numbers as names': (pickled(text('state_dict'), b'}K\x01Ns'), '1 is no name of a weight'),
    'numbers as names': (b'\x80\x02}K\x01Ns.', '1 is no name of a weight'),
    'weights that are text': (
        pickled(text('state_dict'), mapping(text('a.b'), text('c'))),
        'a.b is a str, not a tensor',
    ),
    'averages that are text': (pickled(text('ema_state_dict'), mapping(text('a'), text('c'))), 'a is a str, not'),
    'a meta that is text': (pickled(text('meta'), text('a')), 'its meta is a str'),
    'messages that are text': (pickled(text('message_hub'), text('a')), 'its message_hub is a str'),
    'an epoch that is text': (pickled(text('meta'), mapping(text('epoch'), text('a'))), "says epoch 'a'"),
    'a seed that is a text': (
        pickled(text('meta'), mapping(text('seed'), text('1\nall is well'))),
        r"seed '1\nall is well'",
    ),
    'an iteration below 0': (pickled(text('meta'), mapping(text('iter'), number(-1))), 'says iter -1'),
}


@pytest.mark.parametrize('row', SHAPES)
def test_what_is_no_checkpoint_says_why(tmp_path, row):
    value, message = SHAPES[row]
    with pytest.raises(MmacsError) as caught:
        read_checkpoint(write(tmp_path / 'a.pth', value))
    assert message in str(caught.value)


def save_tar(path):
    with tarfile.open(path, 'w') as tar:
        tar.addfile(tarfile.TarInfo('storages'), io.BytesIO())


def save_script(path):
    write(path, checkpoint(b'N'))
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('archive/constants.pkl', b'')


FILES = {
    'nothing': (lambda path: path.touch(), 'it is empty'),
    'text': (
        lambda path: path.write_text('version https://git-lfs\x1b[2K'),
        r"it begins with b'version https://git-lfs",
    ),
    'a folder': (lambda path: path.mkdir(), 'is a folder'),
    'none': (lambda path: None, 'is missing'),
    'tar': (save_tar, 'it is a tar archive'),
    'zip': (lambda path: zipfile.ZipFile(path, 'w').writestr('notes.txt', 'a'), 'a zip archive without'),
    'a program': (save_script, 'TorchScript'),
    'safetensors': (lambda path: path.write_bytes(struct.pack('<Q', 9) + b'{"a": {}}'), 'safetensors'),
    'another pickle': (lambda path: path.write_bytes(pickle.dumps({'a': 1})), 'it begins with'),
    'compressed': (
        lambda path: write(path, checkpoint(b'N'), zipfile.ZIP_DEFLATED, {'0': b'\0' * 10**7}),
        'compressed',
    ),
    'the same twice': (lambda path: write(path, checkpoint(b'N'), records={'': b'', '../data.pkl': b''}), 'damaged'),
}


@pytest.mark.parametrize('kind', FILES)
def test_other_files_are_named_for_what_they_are(tmp_path, kind):
    make, message = FILES[kind]
    make(tmp_path / 'a.pth')
    with pytest.raises(MmacsError) as caught:
        CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'), map_location='cpu')
    assert message in str(caught.value) and 'a.pth' in str(caught.value)


# ---------------------------------------------------------------- sound ones
def honest():
    """One of everything that runs write."""
    buffer = HistoryBuffer([1.5, 2.5], [1, 1])
    schedule = OneCycleLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), eta_max=0.1, total_steps=10)
    shared = torch.arange(12.0)
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
    noted = torch.ones(2)
    noted._dynamo_static_input_type = 'guarded'  # what torch.compile leaves on tensors
    state.update(
        rows=shared.view(3, 4)[1:, ::2],
        all=shared,
        half=torch.ones(2, dtype=torch.bfloat16),
        whole=torch.tensor(7),
        none=torch.zeros(0, 3),
        wide=torch.ones(1).expand(5),
        parameter=torch.nn.Parameter(torch.ones(2)),
        bits=torch.tensor([True]),
        noted=noted,
    )
    meta = dict(epoch=3, iter=2**40, config="model = dict(type='A')\n", classes=('é', 'b'), size=torch.Size([1, 2]))
    meta.update(device=torch.device('cpu'), dtype=torch.float16, milestones=Counter([3, 3, 8]), cut=slice(1, None))
    meta.update(array=np.arange(6.0).reshape(2, 3).T, names=np.array(['ab', 'c']), mean=np.float32(0.5), none=None)
    meta.update({(0, 'a'): 1, np.int64(3): 2})
    meta.update(kept=defaultdict(list, a=[1]), seen={1, 2}, flags=frozenset('a'), data=b'\0\xff', nan=float('inf'))
    hub = dict(log_scalars=OrderedDict(loss=buffer), runtime_info=OrderedDict(seed=0))
    return dict(state_dict=state, meta=meta, message_hub=hub, param_schedulers=[schedule.state_dict()])


def require_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            require_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            require_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected) and found.dtype == expected.dtype
        assert (found.stride(), found.requires_grad) == (expected.stride(), expected.requires_grad)
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected) and found.dtype == expected.dtype
    elif isinstance(expected, HistoryBuffer):
        require_same(found.data, expected.data)
        assert found.mean() == expected.mean()
    else:
        assert found == expected


@pytest.mark.parametrize('zipped', [True, False])
def test_sound_checkpoints_are_read_as_they_were_written(tmp_path, zipped):
    expected = honest()
    torch.save(expected, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    found = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
    require_same(found, expected)
    assert found['state_dict']._metadata == expected['state_dict']._metadata
    assert found['state_dict']['rows'].data_ptr() - found['state_dict']['all'].data_ptr() == 16  # one storage
    found['state_dict']['all'][4] = 99
    assert found['state_dict']['rows'][0, 0] == 99
    require_same(read_checkpoint(io.BytesIO((tmp_path / 'a.pth').read_bytes())), expected)


def test_parts_of_configs_are_dicts(tmp_path):
    meta = dict(dataset_meta=dict(classes=('a',), parts=ConfigDict(a=ConfigDict(b=[1]))))
    torch.save(dict(state_dict={}, meta=meta), tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')['meta']['dataset_meta']['parts']
    assert type(found) is type(found['a']) is dict and found == {'a': {'b': [1]}}


def test_types_that_are_newer_than_their_storages(tmp_path):
    expected = dict(state_dict=dict(a=torch.arange(3).to(torch.float8_e5m2), b=torch.arange(3).to(torch.uint16)))
    torch.save(expected, tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')['state_dict']
    for key, value in expected['state_dict'].items():
        assert found[key].dtype == value.dtype and found[key].float().equal(value.float())


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_that_is_cut_or_changed_is_refused(tmp_path, zipped):
    """Wherever it ends, and whichever bit is another one: it is refused, or what is read is the same."""
    expected = dict(state_dict=dict(w=torch.arange(50.0)), meta=dict(epoch=1))
    torch.save(expected, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    sound = (tmp_path / 'a.pth').read_bytes()
    require_same(read_checkpoint(io.BytesIO(sound)), expected)
    for end in range(0, len(sound) - 1, 23):
        with pytest.raises(MmacsError):
            read_checkpoint(io.BytesIO(sound[:end]))
    rng, refused = random.Random(0), 0
    for _ in range(400):
        changed = bytearray(sound)
        changed[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        try:
            found = read_checkpoint(io.BytesIO(changed))
        except MmacsError:
            refused += 1
        else:
            if zipped:
                require_same(found, expected)
    assert refused > 100


def test_random_pickles_are_refused_or_plain(tmp_path):
    """Changes that the CRC does not tell, since they were made before it was computed."""
    torch.save(honest(), tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as archive:
        (folder,) = {record.split('/')[0] for record in archive.namelist()}
        sound = archive.read(f'{folder}/data.pkl')
        records = {n.split('/')[-1]: archive.read(n) for n in archive.namelist() if '/data/' in n}
    rng = random.Random(0)
    for _ in range(200):
        changed = bytearray(sound)
        for _ in range(rng.choice([1, 1, 3])):
            changed[rng.randrange(len(sound))] = rng.randrange(256)
        try:
            read_checkpoint(write(tmp_path / 'b.pth', changed, records=records))
        except MmacsError as error:
            assert str(error).isprintable()


def test_a_part_of_a_storage_in_a_checkpoint_of_the_first_versions_of_torch(tmp_path):
    torch.save(dict(w=torch.arange(6.0)), tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    whole = (tmp_path / 'a.pth').read_bytes()
    part = b'(' + text('part') + number(2) + number(4) + b't'  # of its elements, from the third on
    whole, changed = re.subn(
        rb'(K\x06)N(tq.Q.*?)K\x06\x85', lambda m: m[1] + part + m[2] + b'K\x04\x85', whole, flags=re.S
    )
    assert changed == 1
    (tmp_path / 'b.pth').write_bytes(whole)
    expected = torch.load(tmp_path / 'b.pth')['w']
    assert read_checkpoint(tmp_path / 'b.pth')['w'].tolist() == expected.tolist() == [2, 3, 4, 5]


def test_a_newer_pickle_protocol_is_said(tmp_path):
    torch.save(dict(w=torch.ones(2)), tmp_path / 'a.pth', pickle_protocol=4)
    with pytest.raises(MmacsError, match='pickle protocol 4, not 2, .* torch.save its weights alone'):
        read_checkpoint(tmp_path / 'a.pth')


def test_tensors_go_where_they_are_asked_to(tmp_path):
    torch.save(dict(state_dict=dict(w=torch.ones(2))), tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth', lambda values, place: values)['state_dict']['w'].device.type == 'cpu'
    for place in ('cuda:99', 'nowhere'):
        with pytest.raises(MmacsError, match=f'cannot load the checkpoint .*a.pth to {place}: '):
            read_checkpoint(tmp_path / 'a.pth', place)
    if torch.cuda.is_available():
        for zipped in (True, False):
            torch.save(
                dict(state_dict=dict(w=torch.ones(2))), tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped
            )
            found = read_checkpoint(tmp_path / 'a.pth', 'cuda')['state_dict']['w']
            assert found.is_cuda and found.tolist() == [1, 1]


# ---------------------------------------------------------------- ways in
@pytest.mark.parametrize('reverse', [False, True])
def test_what_others_allow_torch_to_load_has_no_say(tmp_path, reverse):
    evil = call(REBUILD, name('builtins.getattr'), name('torch.Tensor'), group(name(HISTORY), text('min')), b'}')
    evil = call('builtins.eval', text(CODE)) + evil + b'\x86'
    allowed = [getattr, eval, HistoryBuffer, (eval, 'builtins.getattr'), (getattr, 'builtins.eval')]
    path = str(write(tmp_path / 'a.pth', checkpoint(evil)))
    refused = pytest.raises(MmacsError, match='something other than weights and plain values')
    with torch.serialization.safe_globals(allowed[::-1] if reverse else allowed), refused:
        CheckpointLoader.load_checkpoint(path)


def test_threads_that_replace_the_loader_at_once_take_turns():
    owner, seen = SimpleNamespace(load='before'), []

    def replace_too():
        with replaced(owner, 'load', 'other'):
            seen.append(owner.load)

    other = Thread(target=replace_too)
    with replaced(owner, 'load', 'ours'):
        other.start()
        other.join(0.1)
        assert other.is_alive() and owner.load == 'ours'
    other.join(10)
    assert seen == ['other'] and owner.load == 'before'


WAYS = {
    'load_from': lambda path: load_checkpoint(torch.nn.Conv2d(1, 1, 1), path),
    'init_cfg': lambda path: PretrainedInit(path)(torch.nn.Conv2d(1, 1, 1)),
    'init_cfg with a prefix': lambda path: PretrainedInit(path, prefix='backbone.')(torch.nn.Conv2d(1, 1, 1)),
    'a URL': lambda path: CheckpointLoader.load_checkpoint(f'http://localhost/{Path(path).name}'),
    'a teacher': lambda path: load_teacher(torch.nn.Conv2d(1, 1, 1), path, 'a'),
    'publishing': lambda path: publish(path, Path(path).with_name('out.pth')),
}


@pytest.mark.parametrize('way', WAYS)
def test_every_way_in_refuses_code(tmp_path, monkeypatch, way):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)  # what a URL names is there already
    path = write(tmp_path / 'hub' / 'checkpoints' / 'a.pth', checkpoint(call('builtins.eval', text(CODE))))
    with pytest.raises(MmacsError, match=r'a.pth holds something other than weights .*\(builtins.eval\)'):
        WAYS[way](str(path))


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
@pytest.mark.parametrize('config', [CODE, '_base_ = "other.py"', 'custom_imports = dict(imports=["this"])', 5])
def test_the_config_in_a_resumed_checkpoint_is_not_executed(kind, config):
    found = dict(meta=dict(epoch=3, iter=7, config=config), message_hub={}, state_dict={})
    runner = MagicMock()
    runner.load_checkpoint.return_value = runner.strategy.resume.return_value = found
    runner.train_dataloader.dataset.metainfo = None
    kind.resume(runner, 'epoch_3.pth')
    assert runner.train_loop._iter == 7
    assert found['meta']['config'] == config  # as a text it is at hand for those who compare it
    assert 'this' not in sys.modules


def test_weights_alone_cannot_be_resumed():
    runner = MagicMock()
    runner.load_checkpoint.return_value = dict(state_dict={})
    with pytest.raises(MmacsError, match="cannot resume from a.pth: it has no 'meta', .* set load_from"):
        Runner.resume(runner, 'a.pth')
