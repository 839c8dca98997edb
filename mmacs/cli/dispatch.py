"""``mmacs COMMAND ...``: which commands there are, and how one is found.

Nothing heavy is imported before a command's options are parsed.
"""

import argparse
import sys
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import List, Optional, Sequence

from mmacs.cli.entry import guarded, with_frameworks
from mmacs.utils.errors import MmacsError, nearest
from mmacs.version import __version__

# Words of each command, whose module is mmacs.cli.commands.<words>
COMMANDS = (
    'init',
    'train',
    'test',
    'report coreset',
    'report quantization',
    'export',
    'infer',
    'benchmark',
    'compare',
    'choose-bits',
    'post-training',
    'flops',
    'publish',
    'models',
)
_WITHOUT_FRAMEWORKS = ('infer', 'models')


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Run ``mmacs COMMAND ...``.

    Args:
        arguments (Sequence[str], optional): What follows ``mmacs``; by default, what the process was given.
    """
    guarded(partial(_main, list(sys.argv[1:] if arguments is None else arguments)))


def run_command(command: str, arguments: Optional[Sequence[str]] = None) -> None:
    """Run one command, under the name that the process was given, as ``tools/*.py`` do.

    Args:
        command (str): One of :data:`COMMANDS`.
        arguments (Sequence[str], optional): Its options; by default, what the process was given.
    """
    guarded(partial(_run_command, command, None, arguments))


def _main(arguments: List[str]) -> None:
    given = arguments[0] if arguments else '--help'
    if given in ('-h', '--help', 'help'):
        print(_overview(COMMANDS))
    elif given in ('-V', '--version'):
        print(__version__)
    elif arguments[0] in COMMANDS:
        _run_command(given, f'mmacs {given}', arguments[1:])
    else:
        _run_of_group(given, arguments[1:])


def _run_of_group(group: str, arguments: List[str]) -> None:
    """Run a command of two words, such as ``report coreset``."""
    members = [command for command in COMMANDS if command.startswith(f'{group} ')]
    if not members:
        raise _unknown('command', group, [command.partition(' ')[0] for command in COMMANDS], 'mmacs --help')
    if not arguments or arguments[0] in ('-h', '--help'):
        print(_overview(members))
        return
    command = f'{group} {arguments[0]}'
    if command not in members:
        kinds = [member.partition(' ')[2] for member in members]
        raise _unknown(group, arguments[0], kinds, f'mmacs {group} --help')
    _run_command(command, f'mmacs {command}', arguments[1:])


def _unknown(kind: str, name: str, known: Sequence[str], listing: str) -> MmacsError:
    close = nearest(name, known)
    hint = f'did you mean {close!r}? ' if close else ''
    return MmacsError(f'unknown {kind} {name!r}: {hint}{listing!r} lists what there is')


def _overview(commands: Sequence[str]) -> str:
    """Returns the commands with what each does, in a line."""
    width = max(map(len, commands))
    lines = [f'  {command:{width}}  {_module(command).__doc__.strip().splitlines()[0]}' for command in commands]
    return '\n'.join(
        [
            'usage: mmacs COMMAND ...',
            '',
            'Low-bit quantization-aware training of detectors and classifiers, on the images that matter.',
            '',
            *lines,
            '',
            "'mmacs COMMAND --help' tells the options of a command.",
        ]
    )


def _module(command: str) -> ModuleType:
    return import_module(f'mmacs.cli.commands.{command.replace(" ", "_").replace("-", "_")}')


def _run_command(command: str, name: Optional[str], arguments: Optional[Sequence[str]]) -> None:
    module = _module(command)
    parser = argparse.ArgumentParser(prog=name, description=module.__doc__)
    module.add_options(parser)
    args = parser.parse_args(arguments)
    if command in _WITHOUT_FRAMEWORKS:
        module.main(args)
    else:
        with_frameworks(partial(module.main, args))
