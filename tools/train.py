"""Train a model from a config: ``python tools/train.py configs/retinanet_r18_w4a4_acs.py``.

The same as ``mmacs train``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('train')
