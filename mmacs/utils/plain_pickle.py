"""An unpickler that can build tensors and plain values, and nothing else.

It looks no name up. The names that checkpoints of torch, MMEngine and mmacs hold are in the tables below, each with a
function of this file that checks what it is given; what any library has allow-listed for ``torch.load`` has no say.
"""

import math
import pickle
import re
from collections import Counter, OrderedDict, defaultdict
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor

from mmacs.utils.errors import printable

_MAX_DEPTH = 100  # of values in values
_MAX_ITEMS = 10_000_000  # values, those counted again that stand in several places
_MAX_EXPANDED = 1_000_000  # elements of a tensor that shows elements of its storage more than once
_MAX_DIMENSIONS = 64  # of a tensor, torch's own limit
_MAX_NAME = 1000  # characters of a key

_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')  # numpy 1's and numpy 2's name for it
_HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
_ONE_CYCLE = 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'
# Control characters but for those of text, characters that turn the direction of writing, halves of surrogate pairs.
_UNPRINTABLE = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')
_STORAGES = {
    'Bool': torch.bool,
    'Byte': torch.uint8,
    'Char': torch.int8,
    'Short': torch.int16,
    'Int': torch.int32,
    'Long': torch.int64,
    'Half': torch.float16,
    'BFloat16': torch.bfloat16,
    'Float': torch.float32,
    'Double': torch.float64,
    'ComplexFloat': torch.complex64,
    'ComplexDouble': torch.complex128,
}
_DTYPES = {
    f'torch.{name}': getattr(torch, name)
    for name in (
        *('bool', 'uint8', 'int8', 'int16', 'int32', 'int64', 'uint16', 'uint32', 'uint64'),
        *('float16', 'bfloat16', 'float32', 'float64', 'complex64', 'complex128'),
        *('float8_e4m3fn', 'float8_e5m2', 'float8_e4m3fnuz', 'float8_e5m2fnuz'),
    )
    if hasattr(torch, name)  # not all in the oldest release that mmacs runs with
}


class NotPlainError(Exception):
    """A pickle holds something other than tensors and plain values; the message says what."""


class StorageType(NamedTuple):
    """What stands for a type of storage, such as ``torch.FloatStorage``."""

    dtype: torch.dtype


class Storage(NamedTuple):
    """The elements behind one or several tensors.

    Attributes:
        values (Tensor): Their bytes, uint8, shape (number of bytes,).
        dtype (torch.dtype): What they are.
    """

    values: Tensor
    dtype: torch.dtype


class _Name(NamedTuple):
    """A known name on the unpickler's stack: it can be called through the tables alone."""

    name: str


class PlainUnpickler(pickle._Unpickler):  # in Python, so that each opcode can be restricted
    """Reads one pickle.

    Args:
        file (BinaryIO): Where it starts.
        find_storage (Callable[[tuple], Storage]): Gives the storage of a persistent id.

    Raises:
        NotPlainError: In :meth:`load`, if the pickle holds anything but tensors and plain values. Damaged ones raise
            almost anything.
    """

    # the opcodes that torch.save writes
    dispatch: Dict[int, Callable[['PlainUnpickler'], None]] = {
        opcode[0]: pickle._Unpickler.dispatch[opcode[0]]
        for opcode in (
            *(pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPUT, pickle.LONG_BINPUT),
            *(pickle.BINGET, pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT),
            *(pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE),
            *(pickle.SHORT_BINSTRING, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.TUPLE),
            *(pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        )
    }

    def __init__(self, file: BinaryIO, find_storage: Callable[[tuple], Storage]) -> None:
        super().__init__(file, encoding='utf-8')
        self._find_storage = find_storage

    def load(self) -> Any:
        """Returns what the pickle holds."""
        value = super().load()
        check_plain(value)
        return value

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name; nothing is imported."""
        if module in ('__builtin__', 'copy_reg'):  # as protocol 2 names them
            module = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}[module]
        full = f'{module}.{name}'
        if full in _DTYPES:
            return _DTYPES[full]
        if module in ('torch', 'torch.cuda', 'torch.storage') and name.endswith('Storage'):
            kind = name.removesuffix('Storage')
            if kind in _STORAGES:
                return StorageType(_STORAGES[kind])
            if kind == 'Untyped':
                return StorageType(torch.uint8)
        if full not in _NAMES:
            raise NotPlainError(full)
        return _Name(full)

    def load_proto(self) -> None:
        """Refuse what ``torch.save`` writes only if it is asked to."""
        (protocol,) = self.read(1)
        if protocol != 2:
            raise NotPlainError(f'pickle protocol {protocol}, not 2, which torch.save takes by default')

    def load_reduce(self) -> None:
        """Call a name that is known."""
        arguments = self.stack.pop()
        self.stack[-1] = _called(_CALLS, self.stack[-1], arguments)

    def load_newobj(self) -> None:
        """Make an object of a class that is known."""
        arguments = self.stack.pop()
        self.stack[-1] = _called(_OBJECTS, self.stack[-1], arguments)

    def load_build(self) -> None:
        """Give an object that is known its state."""
        state = self.stack.pop()
        set_state = _STATES.get(_type_name(self.stack[-1]))
        if set_state is None:
            raise NotPlainError(f'a state for {type(self.stack[-1]).__name__}')
        set_state(self.stack[-1], state)

    def load_append(self) -> None:
        """Append to a list."""
        value = self.stack.pop()
        _expect(self.stack[-1], list).append(value)

    def load_appends(self) -> None:
        """Append to a list."""
        values = self.pop_mark()
        _expect(self.stack[-1], list).extend(values)

    def load_setitem(self) -> None:
        """Set an item of a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [(key, value)])

    def load_setitems(self) -> None:
        """Set items of a dict."""
        items = self.pop_mark()
        _put(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def load_binpersid(self) -> None:
        """Find a storage."""
        self.stack[-1] = self._find_storage(_expect(self.stack[-1], tuple))

    dispatch.update(
        {
            pickle.PROTO[0]: load_proto,
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.APPEND[0]: load_append,
            pickle.APPENDS[0]: load_appends,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.BINPERSID[0]: load_binpersid,
        }
    )


def _called(table: Mapping[str, Callable[..., Any]], called: Any, arguments: Any) -> Any:
    if type(called) is not _Name or called.name not in table:
        raise NotPlainError(f'a call of {printable(getattr(called, "name", type(called).__name__))}')
    return table[called.name](*_expect(arguments, tuple))


def _expect(value: Any, *kinds: type) -> Any:
    """Returns a value that is of one of the types themselves, not of a subclass."""
    if type(value) not in kinds:
        raise TypeError(f'{type(value).__name__} in the place of {" or ".join(kind.__name__ for kind in kinds)}')
    return value


def _put(mapping: Any, items: Any) -> None:
    """Sets items of a dict."""
    _expect(mapping, dict, OrderedDict, Counter, defaultdict)
    for key, value in items:
        mapping[_key(key)] = value


def _key(value: Any) -> Any:
    """Returns a single value, or a tuple of such: hashing tuples in tuples can exhaust the stack of the process."""
    for part in value if type(value) is tuple else (value,):
        if not isinstance(part, np.number):
            _expect(part, str, int, float, bool, bytes, type(None))
    return value


def _type_name(value: Any) -> str:
    return 'numpy.dtype' if isinstance(value, np.dtype) else f'{type(value).__module__}.{type(value).__name__}'


def _ints(values: Any) -> Tuple[int, ...]:
    """Returns sizes, strides or a shape: none is negative."""
    found = tuple(_expect(values, tuple, list, torch.Size))
    if len(found) > _MAX_DIMENSIONS or any(type(value) is not int or not 0 <= value < 2**63 for value in found):
        raise ValueError('sizes that are none')
    return found


# ---------------------------------------------------------------- what is called, see _CALLS
def _ordered_dict(items: Any = ()) -> OrderedDict:
    found: OrderedDict = OrderedDict()
    _put(found, map(tuple, _expect(items, tuple, list)))
    return found


def _counter(items: Any = None) -> Counter:
    found: Counter = Counter()
    _put(found, _expect(items if items is not None else {}, dict).items())
    return found


def _default_dict(factory: Any = None) -> defaultdict:
    return defaultdict(None if factory is None else _FACTORIES[_expect(factory, _Name).name])


def _set(kind: type) -> Callable[[Any], Any]:
    return lambda items: kind(map(_key, _expect(items, list)))


def _slice(*bounds: Any) -> slice:
    return slice(*(_expect(bound, int, type(None)) for bound in bounds))


def _bytes(text: Any, encoding: Any) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding not in ('latin1', 'latin-1'):
        raise ValueError('bytes in another encoding than latin1')
    return _expect(text, str).encode('latin1')


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    return _view(storage, offset, size, stride, _expect(storage, Storage).dtype)


def _tensor_2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    return _tensor_3(storage, offset, size, stride, requires_grad, hooks, _expect(storage, Storage).dtype, metadata)


def _tensor_3(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, _: Any, dtype: Any, metadata: Any = None
) -> Tensor:
    if metadata:
        raise NotPlainError('a conjugated tensor')
    return _view(storage, offset, size, stride, _expect(dtype, torch.dtype)).requires_grad_(
        _expect(requires_grad, bool)
    )


def _view(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype) -> Tensor:
    """Returns a tensor all of whose elements lie in its storage, which torch would make larger."""
    (offset,), size, stride = _ints((offset,)), _ints(size), _ints(stride)
    held, count = _expect(storage, Storage).values.numel() // dtype.itemsize, math.prod(size)
    if len(size) != len(stride):
        raise ValueError('a tensor with sizes and strides of different lengths')
    reach = offset + sum((length - 1) * step for length, step in zip(size, stride)) + 1 if count else offset
    if reach > held or count > max(held, _MAX_EXPANDED):
        raise ValueError(f'a tensor of {count} elements where the file has {held}')
    values = torch.empty(0, dtype=dtype, device=storage.values.device)
    start = storage.values.storage_offset() // dtype.itemsize  # of a part of another storage
    return values.set_(storage.values.untyped_storage(), start + offset, size, stride)


def _parameter(data: Any, requires_grad: Any, *_: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(_expect(data, Tensor), _expect(requires_grad, bool))


def _tensor_with_attributes(build: Any, kind: Any, arguments: Any, _: Any) -> Tensor:
    """Builds a tensor without its attributes, such as what ``torch.compile`` notes down on tensors."""
    if kind not in (_Name('torch.Tensor'), _Name('torch.nn.parameter.Parameter')) or build not in _BUILDERS:
        raise NotPlainError('a kind of tensor')
    return _called(_CALLS, build, arguments)


def _dtype(text: Any, *_: Any) -> np.dtype:
    """Returns the dtype of numbers or text; others hold addresses or fields."""
    if not re.fullmatch(r'b1|[iu][1248]|f[248]|c(8|16)|[US]\d{1,4}', _expect(text, str)):
        raise NotPlainError(f'a numpy array of {printable(text, 40)}')
    return np.dtype(text)


def _empty_array(kind: Any, shape: Any, text: Any) -> np.ndarray:
    if kind != _Name('numpy.ndarray'):
        raise NotPlainError('a kind of numpy array')
    return np.empty(0, dtype=np.int8)


def _scalar(dtype: Any, content: Any) -> np.generic:
    (found,) = np.frombuffer(_expect(content, bytes), dtype=_checked(dtype))
    return found


def _checked(dtype: Any) -> np.dtype:
    if not isinstance(dtype, np.dtype):
        raise TypeError('a numpy array without a type')
    return dtype


def _method(owner: Any, name: Any) -> Callable[..., Any]:
    """What checkpoints call ``getattr`` for: statistics of history buffers, annealing of one-cycle schedules."""
    found = _methods().get((_expect(owner, _Name).name, name))
    if found is None:
        raise NotPlainError(f'{printable(name, 80)} of {owner.name}')
    return found


def _methods() -> Dict[Tuple[str, str], Callable[..., Any]]:
    from mmengine.logging import HistoryBuffer
    from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

    methods = {(_HISTORY, name): getattr(HistoryBuffer, name) for name in ('min', 'max', 'mean', 'current')}
    schedules = ('_annealing_cos', '_annealing_linear')
    return {**methods, **{(_ONE_CYCLE, name): getattr(OneCycleParamScheduler, name) for name in schedules}}


def _history_buffer() -> Any:
    from mmengine.logging import HistoryBuffer

    return HistoryBuffer()


# ---------------------------------------------------------------- what gets a state, see _STATES
def _set_metadata(mapping: OrderedDict, state: Any) -> None:
    """A state dict keeps the versions of its modules as an attribute."""
    if set(_expect(state, dict)) != {'_metadata'}:
        raise NotPlainError('attributes of an OrderedDict')
    mapping._metadata = _expect(state['_metadata'], dict, OrderedDict)  # type: ignore[attr-defined]


def _set_history(buffer: Any, state: Any) -> None:
    log, count = (_expect(_expect(state, dict)[f'_{name}_history'], np.ndarray) for name in ('log', 'count'))
    if log.ndim != 1 or log.shape != count.shape or not all(array.dtype.kind in 'biuf' for array in (log, count)):
        raise ValueError('a history that is not one of numbers')
    buffer._log_history, buffer._count_history = log, count
    buffer.max_length = _expect(state['max_length'], int)


def _set_array(array: np.ndarray, state: Any) -> None:
    version, shape, dtype, fortran, content = _expect(state, tuple)
    if version != 1 or len(_expect(content, bytes)) != math.prod(_ints(shape)) * _checked(dtype).itemsize:
        raise ValueError('a numpy array of another size than it says')
    array.__setstate__((1, tuple(shape), dtype, bool(fortran), content))


def _set_dtype(dtype: np.dtype, state: Any) -> None:
    """Nothing is left to be set: the order of bytes is that of this machine, and there are no fields."""
    if _expect(state, tuple)[1] == '>' or any(part is not None for part in state[2:5]):
        raise NotPlainError('a numpy array with fields, or of a big-endian machine')


_CALLS: Dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _ordered_dict,
    'collections.Counter': _counter,
    'collections.defaultdict': _default_dict,
    'mmengine.config.config.ConfigDict': lambda items: _expect(items, dict),  # part of a config, as a plain dict
    'builtins.set': _set(set),
    'builtins.frozenset': _set(frozenset),
    'builtins.slice': _slice,
    'builtins.getattr': _method,
    '_codecs.encode': _bytes,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor_2,
    'torch._utils._rebuild_tensor_v3': _tensor_3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch._tensor._rebuild_from_type_v2': _tensor_with_attributes,
    'torch.Size': lambda sizes: torch.Size(_ints(sizes)),
    'torch.device': lambda kind, *index: torch.device(_expect(kind, str), *_ints(index)),
    'numpy.dtype': _dtype,
    **{f'{module}._reconstruct': _empty_array for module in _MULTIARRAY},
    **{f'{module}.scalar': _scalar for module in _MULTIARRAY},
}
_BUILDERS = {_Name(name) for name in _CALLS if name.startswith('torch._utils.')}
_OBJECTS: Dict[str, Callable[..., Any]] = {_HISTORY: _history_buffer}
_STATES: Dict[str, Callable[[Any, Any], None]] = {
    'collections.OrderedDict': _set_metadata,
    'numpy.ndarray': _set_array,
    _HISTORY: _set_history,
    'numpy.dtype': _set_dtype,
}
_FACTORIES = {f'builtins.{kind.__name__}': kind for kind in (list, dict, int, float)}
_NAMES = {*_CALLS, *_OBJECTS, *_FACTORIES, 'numpy.ndarray', 'torch.Tensor', 'torch.nn.parameter.Parameter', _ONE_CYCLE}


# ---------------------------------------------------------------- what came out
_SINGLE = (type(None), bool, int, float, bytes, slice, torch.Size, torch.dtype, torch.device)
_SINGLE += (Tensor, torch.nn.Parameter, np.ndarray)
_MANY = (dict, OrderedDict, Counter, defaultdict, list, tuple, set, frozenset)


def check_plain(value: Any) -> None:
    """Require tensors, plain values, and whole containers of these, no deeper and no more than anybody needs.

    Values that hold themselves, or repeat parts without end, would hang or crash whoever goes through them.

    Args:
        value (Any): What a :class:`PlainUnpickler` built.

    Raises:
        NotPlainError: If it holds anything else.
    """
    sizes: Dict[int, int] = {}  # items in each container, by its id
    path: List[Tuple[Any, Any]] = [([value], iter([value]))]  # containers that are being gone through
    inside = {id(path[0][0])}
    while path:
        container, rest = path[-1]
        for item in rest:
            if type(item) not in _MANY:
                _check_single(item)
            elif id(item) in inside:
                raise NotPlainError('a value that holds itself')
            elif id(item) not in sizes:
                path.append((item, _parts(item)))
                inside.add(id(item))
                if len(path) > _MAX_DEPTH:
                    raise NotPlainError(f'values nested more than {_MAX_DEPTH} deep')
                break
        else:
            path.pop()
            inside.remove(id(container))
            sizes[id(container)] = 1 + sum(sizes.get(id(part), 1) for part in _parts(container))
            if sizes[id(container)] > _MAX_ITEMS:
                raise NotPlainError(f'more than {_MAX_ITEMS} values')


def _parts(container: Any) -> Iterator[Any]:
    if not isinstance(container, dict):
        return iter(container)
    for key in container:
        if isinstance(key, str) and (len(key) > _MAX_NAME or not key.isprintable()):
            raise NotPlainError(f'the name {printable(key, 80)}')
    return iter(container.values())


def _check_single(value: Any) -> None:
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, np.ndarray) and value.dtype.kind == 'U':
        _check_text(''.join(value.flat))
    elif type(value) is _Name:
        raise NotPlainError(value.name)
    elif type(value) not in _SINGLE and not isinstance(value, (np.generic, np.dtype)):
        _check_other(value)


def _check_other(value: Any) -> None:
    if _type_name(value) != _HISTORY and value not in _methods().values():
        raise NotPlainError(type(value).__name__)


def _check_text(text: str) -> None:
    found = _UNPRINTABLE.search(text)
    if found:
        raise NotPlainError(f'control characters ({printable(found[0])})')
