"""Make a checkpoint ready to hand out: ``python tools/publish_model.py run/epoch_12.pth model.pth``.

The same as ``mmacs publish``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('publish')
