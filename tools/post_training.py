"""Quantize a trained model without training: ``python tools/post_training.py CONFIG CHECKPOINT --out FILE``.

The same as ``mmacs post-training``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('post-training')
