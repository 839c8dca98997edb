"""The command line: ``mmacs COMMAND ...``, and what the commands share with the scripts under ``tools/``."""

from mmacs.cli.dispatch import main, run_command
from mmacs.cli.entry import explain, run

__all__ = ['explain', 'main', 'run', 'run_command']
