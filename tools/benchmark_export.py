"""Measure the speed of a config's exported file: ``python tools/benchmark_export.py CONFIG``.

The same as ``mmacs benchmark``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('benchmark')
