"""Choose each layer's bit-width under a budget: ``python tools/choose_bits.py CONFIG CHECKPOINT ...``.

The same as ``mmacs choose-bits``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('choose-bits')
