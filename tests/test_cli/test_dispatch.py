"""``mmacs COMMAND ...``: commands are found, told apart, and told about without importing anything heavy."""

import os
import runpy
import subprocess
import sys

import pytest

from mmacs import cli
from mmacs.cli.dispatch import COMMANDS
from mmacs.version import __version__
from tests.conftest import REPO

HEAVY = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'matplotlib', 'onnx', 'onnxruntime')
HELP = f"""
import sys
from contextlib import suppress
from mmacs import cli
from mmacs.cli.dispatch import COMMANDS
for words in ([], *(command.split() for command in COMMANDS)):
    with suppress(SystemExit):
        cli.main([*words, '--help'])
    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""


def test_no_help_imports_anything_heavy():
    done = subprocess.run([sys.executable, '-c', HELP], env=os.environ, capture_output=True, text=True)
    assert done.stderr.splitlines() == ['[]'] * (len(COMMANDS) + 1)
    overview, *helps = done.stdout.split('usage: ')[1:]
    assert [text.partition(' [-h]')[0] for text in helps] == [f'mmacs {command}' for command in COMMANDS]
    assert all(f'\n  {command} ' in overview for command in COMMANDS)


def test_output_that_nobody_reads_ends_quietly():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, '-m', 'mmacs', '--help']
    done = subprocess.run(command, env=os.environ, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, '')


def fails(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['trian'], "error: unknown command 'trian': did you mean 'train'? 'mmacs --help' lists what there is\n"),
        (['reprot', 'coreset'], "error: unknown command 'reprot': did you mean 'report'?"),
        (['report', 'corset'], "error: unknown report 'corset': did you mean 'coreset'? 'mmacs report --help'"),
        (['--launcher'], "error: unknown command '--launcher': 'mmacs --help' lists what there is\n"),
        (['train', 'none.py'], 'error: no such config: '),
        (
            ['infer', 'model.onnx', 'picture.jpg', '--threshold', '2'],
            'error: --threshold is a score from 0 to 1, got 2',
        ),
    ],
)
def test_a_mistake_is_answered_by_one_sentence(capsys, words, sentence):
    said = fails(capsys, *words)
    assert said.startswith(sentence) and said.count('\n') == 1


def test_what_is_told_without_a_command(capsys):
    cli.main(['--version'])
    assert capsys.readouterr().out == f'{__version__}\n'
    cli.main([])
    assert 'mmacs COMMAND --help' in capsys.readouterr().out
    cli.main(['report'])
    told = capsys.readouterr().out
    assert '  report coreset ' in told and '  train ' not in told


def test_every_tool_of_a_command_is_the_command(monkeypatch):
    called = []
    monkeypatch.setattr(cli, 'run_command', called.append)
    for tool in (REPO / 'tools').glob('*.py'):
        if 'cli.run_command(' in tool.read_text():
            runpy.run_path(str(tool), run_name='__main__')
    assert sorted(called) == sorted(set(called)) and set(called) < set(COMMANDS)
    assert {'train', 'test', 'export', 'compare', 'report coreset', 'report quantization'} <= set(called)
