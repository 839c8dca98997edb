"""Signs of life: what takes long, how far it is, and how much time is left.

Where someone looks, at a terminal, it is a bar that goes when its phase ends; elsewhere a line every ten seconds, in
the log of a run that has one. A phase of less than two seconds shows nothing, and only the main process speaks.
"""

import os
import sys
import time
from contextlib import contextmanager
from logging import INFO, StreamHandler
from threading import Event, RLock, Thread
from typing import Any, Iterable, Iterator, List, Optional, TypeVar

from mmengine.dist import is_main_process
from mmengine.logging import MMLogger

SHOWN_AFTER = 2.0  # seconds of a phase
DRAWN_EVERY = 0.25  # seconds between looks at the phases
LINES_EVERY = 10.0  # seconds between lines, where there is no terminal

Item = TypeVar('Item')


class Phase:
    """How far a phase is; made by :func:`phase`.

    Args:
        name (str): What is done, such as ``'calibration'``.
        total (int, optional): What it counts to; None: nothing is counted.
        unit (str): What it counts.
    """

    def __init__(self, name: str, total: Optional[int], unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done, self.detail = 0, ''
        self.start = time.monotonic()
        self.has_spoken = False  # whether a line told of it

    def advance(self, count: int = 1) -> None:
        """Counts on, at most to the total."""
        self.done += count if self.total is None else min(count, self.total - self.done)

    def say(self, detail: str) -> None:
        """Says what part of the phase begins."""
        self.detail = detail

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Gives items, and counts each when the next is asked for."""
        for item in items:
            yield item
            self.advance()

    @property
    def title(self) -> str:
        """Its name, and the part that it is at."""
        return f'{self.name}: {self.detail}' if self.detail else self.name

    @property
    def count(self) -> str:
        """How far it is; empty where nothing is counted."""
        return '' if self.total is None else f'{self.done} of {self.total} {self.unit}'

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> Optional[float]:
        """Seconds to its end if it goes on as so far, None where that isn't known."""
        return self.seconds / self.done * (self.total - self.done) if self.total and self.done else None


@contextmanager
def phase(name: str, total: Optional[int] = None, unit: str = 'images') -> Iterator[Phase]:
    """Shows that the body is at work. Phases may hold others.

    Args:
        name (str): What is done, such as ``'calibration'``.
        total (int, optional): What it counts to; None: nothing is counted, and no time left is known.
        unit (str): What it counts. Defaults to ``'images'``.

    Yields:
        Phase: What the body tells how far it is.
    """
    one = Phase(name, total, unit)
    if not is_main_process():
        yield one
        return
    _DISPLAY.add(one)
    try:
        yield one
    except BaseException:
        _DISPLAY.remove(one, finished=False)
        raise
    _DISPLAY.remove(one, finished=True)


def in_words(seconds: float) -> str:
    """Returns a time such as ``'8 s'``, ``'3 min'`` or ``'2 h 05 min'``."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 100 else f'{minutes // 60} h {minutes % 60:02d} min'


class _Display:
    """The phases under way, outermost first. A thread looks at them, so that a phase that hangs is seen, too."""

    def __init__(self) -> None:
        self.lock = RLock()  # of all that is written; taken while the process forks, so that no child inherits it taken
        self.forget()

    def forget(self) -> None:
        """Has no phases, as a child of the process that has them."""
        self._phases: List[Phase] = []
        self._ended = Event()
        self._bars: Optional[_Bars] = None
        self._next_line = 0.0

    def after_in_child(self) -> None:
        """Gives a forked process, such as a worker of a data loader, its streams back."""
        if self._bars is not None:
            self._bars.give_back_streams()
        self.forget()
        self.lock.release()

    def add(self, one: Phase) -> None:
        with self.lock:
            self._phases.append(one)
            if len(self._phases) == 1:
                self._ended, self._next_line = Event(), one.start + LINES_EVERY
                Thread(target=self._look, args=(self._ended,), name='mmacs progress', daemon=True).start()

    def remove(self, one: Phase, finished: bool) -> None:
        with self.lock:
            self._phases.remove(one)
            if self._bars is not None:
                self._bars.draw(self._shown())
            if not self._phases:
                self._ended.set()
                if self._bars is not None:
                    self._bars.stop()
                    self._bars = None
            if finished and one.has_spoken:
                _say(f'{one.name} took {in_words(one.seconds)}.')

    def _look(self, ended: Event) -> None:
        while not ended.wait(DRAWN_EVERY):
            with self.lock:
                shown = self._shown()
                if ended.is_set() or not shown:
                    continue
                if self._bars is None and _is_terminal():
                    self._bars = _Bars()
                if self._bars is not None:
                    self._bars.draw(shown)
                elif time.monotonic() >= self._next_line:
                    self._next_line = time.monotonic() + LINES_EVERY
                    _say('; '.join(map(_line, shown)))
                    for one in shown:
                        one.has_spoken = True

    def _shown(self) -> List[Phase]:
        return [one for one in self._phases if one.seconds >= SHOWN_AFTER]


class _Bars:
    """A bar for each phase, below all else that is written to the terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # here, since most phases are short
        from rich.file_proxy import FileProxy
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(file=sys.stderr)
        columns = TextColumn('{task.description}'), BarColumn(20), TextColumn('{task.fields[words]}')
        self._progress = Progress(
            *columns, console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._tasks = {}
        # what is written meanwhile goes above the bars; MMEngine's handlers keep the streams of their beginning
        self._proxies = {id(stream): FileProxy(console, stream) for stream in (sys.stdout, sys.stderr)}
        self._proxies = {key: one for key, one in self._proxies.items() if one.isatty()}
        for name in ('stdout', 'stderr'):
            setattr(sys, name, self._proxies.get(id(getattr(sys, name)), getattr(sys, name)))
        for handler in _screen_handlers():
            handler.stream = self._proxies.get(id(handler.stream), handler.stream)
        self._progress.start()
        console.show_cursor(True)  # a killed process could not show it again

    def draw(self, phases: List[Phase]) -> None:
        from rich.markup import escape

        for one in [one for one in self._tasks if one not in phases]:
            self._progress.remove_task(self._tasks.pop(one))
        for depth, one in enumerate(phases):
            if one not in self._tasks:
                self._tasks[one] = self._progress.add_task('', total=None, words='')
            self._progress.update(
                self._tasks[one],
                description='  ' * depth + escape(one.title),
                total=one.total,
                completed=one.done,
                words=_words(one),
            )
        self._progress.refresh()

    def stop(self) -> None:
        for proxy in self._proxies.values():
            proxy.flush()
        self._progress.stop()
        self.give_back_streams()

    def give_back_streams(self) -> None:
        for proxy in self._proxies.values():
            for name in ('stdout', 'stderr'):
                if getattr(sys, name) is proxy:
                    setattr(sys, name, proxy.rich_proxied_file)
            for handler in _screen_handlers():
                if handler.stream is proxy:
                    handler.stream = proxy.rich_proxied_file


def _words(one: Phase) -> str:
    left = '' if one.left is None else f'{in_words(one.left)} left'
    return ', '.join(filter(None, (one.count, in_words(one.seconds), left)))


def _line(one: Phase) -> str:
    left = '' if one.left is None else f'about {in_words(one.left)} left'
    so_far = f'{in_words(one.seconds)} so far'
    return f'{one.title}: {", ".join(filter(None, (one.count, so_far, left)))}'


def _say(line: str) -> None:
    """Writes a line into the log of the run; to stderr where there is none that anybody sees."""
    if any(handler.level <= INFO for handler in _screen_handlers()):
        _logger().info(line)
    else:
        print(line, file=sys.stderr, flush=True)


def _screen_handlers() -> List[Any]:
    """Returns the handlers of MMEngine's present logger that write to a stream, not to a file."""
    logger = _logger()
    return [] if logger is None else [one for one in logger.handlers if type(one) is StreamHandler]


def _logger() -> Optional[MMLogger]:
    """Returns MMEngine's present logger, None where there is none.

    ``get_current_instance`` of any class keeps MMEngine's one lock for good where it finds no instance; another thread
    that asks for the logger then waits forever.
    """
    return next(reversed(MMLogger._instance_dict.values()), None)


def _is_terminal() -> bool:
    """Returns whether all that is written goes to a terminal on which lines can be drawn anew."""
    streams = sys.__stdout__, sys.stderr  # sys.stdout may be replaced for a while to keep prints back
    dumb = os.environ.get('TERM', '').lower() in ('dumb', 'unknown')
    return not dumb and all(stream is not None and stream.isatty() for stream in streams)


_DISPLAY = _Display()
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(
        before=_DISPLAY.lock.acquire,
        after_in_parent=_DISPLAY.lock.release,
        after_in_child=_DISPLAY.after_in_child,
    )
