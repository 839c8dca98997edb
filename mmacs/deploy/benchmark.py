"""How long an exported file takes beside the same model in float32, and beside its simulation in torch."""

import os
import time
from contextlib import contextmanager
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np
import torch
from rich.table import Table
from torch import nn

from mmacs.deploy.export import Exported
from mmacs.deploy.packages import require
from mmacs.deploy.runtimes import BACKENDS, TITLES, open_model
from mmacs.quantization import disabled

_WARM = 1  # turns before those that count


def benchmark(
    file: bytes,
    float_file: bytes,
    simulation: nn.Module,
    shape: Sequence[int],
    repetitions: int = 15,
    threads: Optional[Sequence[int]] = None,
    advance: Optional[Callable[[str], None]] = None,
) -> Dict[str, Any]:
    """Measure one forward, postprocessing included; the candidates take turns, so that all meet the same machine.

    Args:
        file (bytes): The exported file's content, ONNX.
        float_file (bytes): That of the same pipeline in float32.
        simulation (nn.Module): The pipeline around the quantized model, in eval mode.
        shape (Sequence[int]): Batch, 3, height and width.
        repetitions (int): Forwards of each, of which the median is taken. Defaults to 15.
        threads (Sequence[int], optional): Numbers of threads; one and all cores by default.
        advance (Callable, optional): Called with what is measured next, once per number of threads.

    Returns:
        dict: ``shape``, ``repetitions`` and ``rows``: ``what``, ``threads``, ``milliseconds``, and ``ratio``, how many
        times as fast it is as float32 in ONNX Runtime with as many threads.
    """
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    pixels = torch.from_numpy(images)
    rows: List[Dict[str, Any]] = []
    for count in threads or sorted({1, os.cpu_count() or 1}):
        if advance is not None:
            advance(f'{count} thread{"s" if count > 1 else ""}')
        candidates: Dict[str, Callable[[], object]] = {}
        for what, content in (('float32', float_file), ('exported', file)):
            for backend in BACKENDS:
                runtime = open_model(content, backend, count)
                candidates[f'{what} in {TITLES[backend]}'] = lambda runtime=runtime: runtime.run({'images': images})
        candidates['simulation in torch'] = lambda: simulation(pixels)
        with _torch_threads(count), torch.inference_mode():
            times = in_turns(candidates, repetitions)
        base = times['float32 in ONNX Runtime']
        rows += [
            {'what': what, 'threads': count, 'milliseconds': 1000 * seconds, 'ratio': base / seconds}
            for what, seconds in times.items()
        ]
    return {'shape': list(shape), 'repetitions': repetitions, 'rows': rows}


def float_content(result: Exported, shape: Sequence[int]) -> bytes:
    """Returns the content of a file of the same pipeline with its quantizers switched off, ONNX in float32.

    Args:
        result (Exported): What is exported.
        shape (Sequence[int]): Height and width of an example; the only one where the exported file takes one shape.
    """
    from mmacs.deploy import graph  # which imports what may be missing

    batch, channels, *_ = result.metadata.input_shape
    images = torch.rand(batch or 2, channels, *shape) * 255
    with disabled(result.simulation):
        model = graph.traced(result.simulation, images, fixed=batch is not None)
    graph.cleaned(model)
    return require('onnx_ir').to_proto(model).SerializeToString()


def in_turns(candidates: Mapping[str, Callable[[], object]], repetitions: int) -> Dict[str, float]:
    """Returns the median seconds of calls that are made in turns.

    Each turn is two calls, of which the second counts: the first brings a model's weights back into the caches, from
    which the other candidates drove them.

    Args:
        candidates (Mapping[str, Callable]): What to call, by name.
        repetitions (int): Turns of each that count, after one that doesn't.
    """
    seconds: Dict[str, List[float]] = {name: [] for name in candidates}
    for number in range(_WARM + repetitions):
        for name, call in candidates.items():
            call()
            start = time.perf_counter()
            call()
            if number >= _WARM:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def speed_table(report: Mapping[str, Any]) -> Table:
    """Returns what :func:`benchmark` found as a table for the terminal."""
    size = ' x '.join(map(str, report['shape']))
    table = Table(title=f'{size}, median of {report["repetitions"]}', title_justify='left')
    table.add_column('')
    for heading in ('threads', 'ms', 'times as fast as float32 in ONNX Runtime'):
        table.add_column(heading, justify='right')
    for row in report['rows']:
        table.add_row(row['what'], str(row['threads']), f'{row["milliseconds"]:.1f}', f'{row["ratio"]:.2f}')
    return table


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
