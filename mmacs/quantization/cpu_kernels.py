"""Fake-quant on a CPU in one pass over memory, by C++ that is compiled where there is a compiler.

Torch's own operations, which do the same elsewhere, need a pass each. Each process that needs the C++ compiles it, in
half a second, so that nothing has to be kept that could be stale or another's.
"""

import ctypes
import os
import shlex
import subprocess
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, List, Optional

import torch
from torch import Tensor, nn

SOURCE = Path(__file__).with_suffix('.cpp')
# A multiplication and an addition are not contracted into one operation, which would round otherwise than torch
FLAGS = '-std=c++17 -O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp -shared -fPIC'
COMPILING_TAKES = 60  # seconds at most

_NAMES = {torch.float32: 'float32', torch.bfloat16: 'bfloat16'}
_POINTER = ctypes.c_void_p
_OPERANDS = (_POINTER, ctypes.c_int64, ctypes.c_int64, ctypes.c_float, ctypes.c_float, ctypes.c_int)


def have_kernels(step: Tensor, *values: Tensor) -> bool:
    """Returns whether these functions can take such tensors: float32 or bfloat16 on a CPU, with float32 steps.

    Tracers and fake tensors see torch's own operations.
    """
    return (
        step.dtype == torch.float32
        and values[0].dtype in _NAMES
        and all(given.dtype == values[0].dtype for given in values)
        and all(type(given) in (Tensor, nn.Parameter) and given.device.type == 'cpu' for given in (step, *values))
        and not torch.jit.is_tracing()
        and _library() is not None
    )


def quantize(x: Tensor, y: Tensor, step: Tensor, q_min: int, q_max: int) -> float:
    """Writes ``step * round(clip(x / step))``.

    Args:
        x (Tensor): Values, contiguous, shape (n, k).
        y (Tensor): The result, likewise.
        step (Tensor): Positive step sizes, float32, shape (n,).
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level.

    Returns:
        float: The sum of ``x``.
    """
    return _run('quantize', [x, y], step, q_min, q_max)


def lsq_gradients(grad: Tensor, x: Tensor, grad_x: Tensor, step: Tensor, q_min: int, q_max: int) -> Tensor:
    """Writes the gradient to values, see :func:`~.fake_quant.lsq_quantize`.

    Args:
        grad (Tensor): Gradient to quantized values, contiguous, shape (n, k).
        x (Tensor): Values, likewise.
        grad_x (Tensor): The result, likewise.
        step (Tensor): Positive step sizes, float32, shape (n,).
        q_min (int): Lowest integer level.
        q_max (int): Highest integer level.

    Returns:
        Tensor: The gradient to steps, not scaled, float32, shape (n,). Its summation does not depend on the number of
        threads.
    """
    grad_step = torch.empty(x.shape[0])
    _run('lsq_gradients', [grad, x, grad_x], step, q_min, q_max, grad_step.data_ptr())
    return grad_step


def _run(name: str, tensors: List[Tensor], step: Tensor, q_min: int, q_max: int, *results: int) -> Any:
    step = step.contiguous()
    function = getattr(_library(), f'{name}_{_NAMES[tensors[0].dtype]}')
    pointers = [tensor.data_ptr() for tensor in (*tensors, step)]
    return function(*pointers, *tensors[0].shape, q_min, q_max, torch.get_num_threads(), *results)


@cache
def _library() -> Optional[ctypes.CDLL]:
    """Returns the compiled functions; None, and a warning, where they can't be compiled."""
    try:
        compiler = shlex.split(os.environ.get('CXX', '')) or ['c++']
        with TemporaryDirectory(prefix='mmacs_') as folder:
            path = Path(folder, 'cpu_kernels.so')
            command = [*compiler, *FLAGS.split(), str(SOURCE), '-o', str(path)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILING_TAKES)
            library = ctypes.CDLL(str(path))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = ((getattr(error, 'stderr', None) or str(error)).strip().splitlines() or [''])[0]
        warnings.warn(
            f'fake-quant runs in single operations of torch on this CPU, which takes about twice as long, since its '
            f'C++ could not be compiled: {reason}. Install a C++ compiler with OpenMP (g++), or name one by CXX',
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    for name in _NAMES.values():
        quantize, gradients = getattr(library, f'quantize_{name}'), getattr(library, f'lsq_gradients_{name}')
        quantize.argtypes, quantize.restype = (_POINTER, _POINTER, *_OPERANDS), ctypes.c_double
        gradients.argtypes, gradients.restype = (_POINTER, _POINTER, _POINTER, *_OPERANDS, _POINTER), None
    return library
