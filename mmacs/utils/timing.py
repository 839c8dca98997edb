"""A fair clock for benchmarks: sides take turns in one process.

Drifts of the machine hit all sides, and every ratio is the median of the ratios within a turn. With one thread on a
CPU, time is the processor's for this process, to which other processes on the machine add little; workers of data
loaders, which are processes, are then not counted.
"""

import datetime
import platform
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

import torch


class Spread(NamedTuple):
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        """Returns the sum up measurements."""
        return cls(statistics.median(values), min(values), max(values))


def take_turns(sides: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> Dict[str, List[float]]:
    """Run all sides once to warm up, then in turns A B C A B C ..., and time each run.

    Args:
        sides (Mapping): What to run, by name.
        repeats (int): Number of turns.
        device (torch.device): What to wait for before the clock is read.

    Returns:
        Dict[str, List[float]]: Seconds of each turn, by name.
    """
    from mmacs.utils.progress import phase  # here, so that a missing framework is answered with one sentence

    clock = time.process_time if device.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    seconds: Dict[str, List[float]] = {name: [] for name in sides}
    with phase('measuring', repeats + 1, 'turns') as under_way:
        for turn in under_way.each(range(repeats + 1)):
            for name, run in sides.items():
                _wait(device)
                start = clock()
                run()
                _wait(device)
                if turn:
                    seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> Dict[str, Spread]:
    """Ratios to one side within each turn, so that what slows down a whole turn cancels."""
    return {name: Spread.of([a / b for a, b in zip(values, seconds[base])]) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()


def machine(device: torch.device) -> str:
    """Name of the processor, of a GPU before it."""
    cpuinfo = Path('/proc/cpuinfo')
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    processor = (names or [platform.processor()])[0]
    return f'{torch.cuda.get_device_name()}, {processor}' if device.type == 'cuda' else processor


def environment(device: torch.device) -> str:
    """One line: processor or GPU, threads, version of torch, date."""
    capability = torch.backends.cpu.get_cpu_capability()
    today = datetime.date.today().isoformat()
    return f'{machine(device)} ({capability}), {torch.get_num_threads()} threads, torch {torch.__version__}, {today}'


def verdict(value: float, bar: float) -> str:
    """``'<= 1.15: met'`` or ``'<= 1.15: missed'``."""
    return f'<= {bar:g}: {"met" if value <= bar else "missed"}'
