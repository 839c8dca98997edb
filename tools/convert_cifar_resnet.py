"""Convert a public CIFAR ResNet checkpoint: ``python tools/convert_cifar_resnet.py resnet20-12fca82f.th resnet20.pth``.

Such checkpoints are at https://github.com/akamaster/pytorch_resnet_cifar10.
"""

import argparse
import io

import torch

from mmacs import cli
from mmacs.models import convert_cifar_checkpoint
from mmacs.utils.checkpoint_file import read_checkpoint
from mmacs.utils.files import write_whole


def main() -> None:
    """Parse the options, convert."""
    parser = argparse.ArgumentParser(description='Convert a public CIFAR ResNet checkpoint to MMPreTrain')
    parser.add_argument('src', help='checkpoint of akamaster/pytorch_resnet_cifar10')
    parser.add_argument('dst', help='checkpoint to write, for configs/cifar_resnet/resnet20_cifar10.py and the like')
    args = parser.parse_args()
    state = convert_cifar_checkpoint(read_checkpoint(args.src))
    content = io.BytesIO()
    torch.save({'state_dict': state}, content)
    write_whole(args.dst, content.getbuffer(), elsewhere='name another file')


if __name__ == '__main__':
    cli.run(main)
