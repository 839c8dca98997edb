"""Phases on a terminal, in a log, in other processes."""

import io
import logging
import os
import re
import sys
import time

import pytest
from mmengine.logging import MMLogger
from mmengine.utils import manager

from mmacs.utils import progress
from mmacs.utils.progress import in_words, phase


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    def isatty(self):
        return True

    def screen(self):
        """Returns the lines that can be seen now."""
        lines, row, column = [''], 0, 0
        for part in re.findall(r'\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+', self.getvalue()):
            if part == '\n':
                row, column = row + 1, 0
                lines += [''] * (row + 1 - len(lines))
            elif part == '\r':
                column = 0
            elif part.endswith('A'):
                row -= int(part[2:-1] or 1)
            elif part == '\x1b[2K':
                lines[row] = ''
            elif not part.startswith('\x1b'):
                lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
                column += len(part)
        return [line.rstrip() for line in lines if line.strip()]


def open_terminal(monkeypatch):
    """Returns a terminal that is written to from now on; not as a fixture, after which pytest takes the streams."""
    one = Terminal()
    monkeypatch.setenv('TERM', 'xterm')
    monkeypatch.setenv('COLUMNS', '100')
    for name in ('stdout', 'stderr', '__stdout__'):
        monkeypatch.setattr(sys, name, one)
    return one


@pytest.fixture
def at_once(monkeypatch):
    """Phases are shown from their start on."""
    for name in ('SHOWN_AFTER', 'DRAWN_EVERY', 'LINES_EVERY'):
        monkeypatch.setattr(progress, name, 0.01)


def logger(file=None):
    return MMLogger.get_instance(f'progress{time.monotonic_ns()}', log_file=file)


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, 'nothing was shown'
        time.sleep(0.005)


def test_a_bar_with_count_and_time_left_goes_when_its_phase_ends_and_log_lines_stay_above_it(monkeypatch, at_once):
    terminal = open_terminal(monkeypatch)
    log = logger()
    with phase('calibration', 64) as under_way:
        under_way.advance(16)
        wait_for(lambda: any('16 of 64 images' in line for line in terminal.screen()))
        log.warning('a quantizer saw no data, [red]not markup[/red]')
        print('printed')
        with phase('its part') as part:
            part.say('now')
            wait_for(lambda: any('its part: now' in line for line in terminal.screen()))
            first, second, bar, inner = terminal.screen()
        assert first.endswith('a quantizer saw no data, [red]not markup[/red]')
        assert second == 'printed'
        assert bar.startswith('calibration') and re.search(r'16 of 64 images, \d+ s, \d+ s left', bar)
        assert inner.startswith('  its part: now')
    assert terminal.screen() == [first, second]
    assert sys.stdout is sys.stderr is terminal
    assert all(handler.stream is terminal for handler in log.handlers)


def test_an_error_leaves_no_bar(monkeypatch, at_once):
    terminal = open_terminal(monkeypatch)
    with pytest.raises(KeyboardInterrupt), phase('scoring', 10), phase('inner'):
        wait_for(lambda: 'inner' in terminal.getvalue())
        raise KeyboardInterrupt
    print('error: it was interrupted')
    assert terminal.screen() == ['error: it was interrupted']
    assert terminal.getvalue().rindex('\x1b[?25h') > terminal.getvalue().rindex('\x1b[?25l')  # the cursor is seen


def test_short_phases_show_nothing(monkeypatch):
    terminal = open_terminal(monkeypatch)
    with phase('calibration', 64) as under_way:
        for _ in under_way.each(range(64)):
            pass
    assert under_way.done == 64
    assert terminal.getvalue() == ''


def test_without_a_terminal_lines_go_to_the_log_of_the_run(at_once, tmp_path):
    log = logger(str(tmp_path / 'run.log'))
    with phase('scoring', 10) as under_way:
        list(under_way.each(range(5)))
        wait_for(lambda: '5 of 10' in (tmp_path / 'run.log').read_text())
    lines = (tmp_path / 'run.log').read_text().splitlines()
    assert re.search(r'INFO - scoring: 5 of 10 images, \d+ s so far, about \d+ s left$', lines[0])
    assert re.search(r'INFO - scoring took \d+ s\.$', lines[-1])
    log.handlers.clear()


def test_lines_are_told_where_mmengines_lock_was_left_taken(at_once, tmp_path):
    """As ``get_current_instance`` leaves it, in the thread that asked, if it finds nothing."""
    log = logger(str(tmp_path / 'run.log'))
    with phase('scoring', 10):
        manager._accquire_lock()
        try:
            wait_for(lambda: '0 of 10' in (tmp_path / 'run.log').read_text())
        finally:
            manager._release_lock()
    log.handlers.clear()


def test_without_a_log_lines_go_to_stderr(at_once, capsys, monkeypatch):
    for handler in logger().handlers:
        handler.setLevel(logging.WARNING)  # as the commands do whose results are tables
    stderr = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stderr)
    with phase('export') as under_way:
        under_way.say('proof')
        wait_for(lambda: 'export: proof: ' in stderr.getvalue())
    assert capsys.readouterr().out == ''


def test_only_the_main_process_speaks(monkeypatch, at_once):
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(progress, 'is_main_process', lambda: False)
    with phase('scoring', 10) as under_way:
        time.sleep(0.1)
        under_way.advance(20)
    assert under_way.done == 10
    assert terminal.getvalue() == ''


def test_a_forked_process_writes_to_its_own_streams(monkeypatch, at_once):
    terminal = open_terminal(monkeypatch)
    log = logger()
    with phase('scoring', 10):
        wait_for(lambda: 'scoring' in terminal.getvalue())
        assert sys.stdout is not terminal
        child = os.fork()
        if child == 0:
            plain = sys.stdout is sys.stderr is terminal is log.handlers[0].stream
            with phase('in the child'):
                os._exit(0 if plain and not progress._DISPLAY._bars else 1)
        assert os.waitpid(child, 0)[1] == 0
        log.warning('from the parent')
    assert len(terminal.screen()) == 1


@pytest.mark.parametrize(('seconds', 'words'), [(8.4, '8 s'), (180, '3 min'), (7500, '2 h 05 min')])
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
