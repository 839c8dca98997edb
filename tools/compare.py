"""Compare ways to choose images, and quantizers: ``python tools/compare.py GRID.yml``.

The same as ``mmacs compare``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('compare')
