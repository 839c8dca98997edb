"""Processes side by side, each on threads or a GPU of its own; one that fails does not end the others."""

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, TypeVar

from mmacs.utils.files import writing

Task = TypeVar('Task')
_LOOK = 0.1  # seconds between two looks at running processes
_GRACE = 10.0  # seconds that a process may take to end


@dataclass(frozen=True)
class Command:
    """What to run, and the file that gets what it prints."""

    arguments: List[str]
    log: Path


def run_side_by_side(
    tasks: Sequence[Task],
    places: Sequence[Mapping[str, str]],
    start: Callable[[Task], Optional[Command]],
    ended: Callable[[Task, int], None],
) -> List[Task]:
    """Run tasks in processes, as many at a time as there are places.

    Args:
        tasks (Sequence[Task]): In the order in which they are to begin.
        places (Sequence[Mapping[str, str]]): For each process at a time the environment variables it gets, such as
            ``{'OMP_NUM_THREADS': '1'}``.
        start (Callable): The command of a task, or None while it waits for others.
        ended (Callable): Gets a task and the exit status of its process.

    Returns:
        List[Task]: Those that still wait when nothing runs any more.
    """
    waiting, free = list(tasks), list(range(len(places)))
    running: Dict[int, tuple] = {}
    try:
        while True:
            while free:
                ready = next(((task, made) for task in waiting if (made := start(task)) is not None), None)
                if ready is None:
                    break
                waiting.remove(ready[0])
                place = free.pop(0)
                running[place] = (ready[0], _begin(ready[1], places[place]))
            if not running:
                return waiting
            time.sleep(_LOOK)
            for place, (task, process) in list(running.items()):
                if process.poll() is not None:
                    del running[place]
                    free = sorted([*free, place])
                    ended(task, process.returncode)
    finally:
        _end([process for _, process in running.values()])


def _begin(command: Command, more: Mapping[str, str]) -> subprocess.Popen:
    with writing(command.log):
        command.log.parent.mkdir(parents=True, exist_ok=True)
        log = command.log.open('wb')
    with log:
        return subprocess.Popen(
            command.arguments,
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _end(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        with suppress(OSError):
            process.terminate()
    until = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
