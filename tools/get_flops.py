"""Count what one image costs a model: ``python tools/get_flops.py CONFIG --shape 800 1333``.

The same as ``mmacs flops``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('flops')
