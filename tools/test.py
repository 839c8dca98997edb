"""Evaluate a checkpoint or an exported file: ``python tools/test.py CONFIG CHECKPOINT``.

The same as ``mmacs test``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('test')
