"""Write a config that inherits yours, quantizes its model and trains it on a coreset.

It says what it chose, and loads the file once before that takes its name. What your config imports is imported still.
"""

import argparse

from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('config', help="your config of MMDetection or MMPreTrain, or one of theirs, 'mmdet::...'")
    parser.add_argument('--out', help='file to write; default: CONFIG with the recipe in its name, in the same folder')
    parser.add_argument(
        '--checkpoint',
        help="the trained weights, also the teacher; default: the last of CONFIG's run, or those published for it",
    )
    parser.add_argument(
        '--recipe',
        default='w4a4',
        help="bits such as w8a8, quantizers and bits such as 'LSQ+ w4a4', or a JSON file; default: w4a4",
    )
    parser.add_argument(
        '--fraction', type=float, default=0.3, help='share of the images in each epoch; 1 for all; default: 0.3'
    )
    parser.add_argument('--force', action='store_true', help='replace a file that is there')


def main(args: argparse.Namespace) -> None:
    """Write the config, load it once, say what is in it."""
    from mmacs.cli.own_config import write_config

    if not 0 < args.fraction <= 1:
        raise MmacsError(f'--fraction is a share of the images above 0 and at most 1, got {args.fraction}')
    for line in write_config(args.config, args.out, args.checkpoint, args.recipe, args.fraction, args.force):
        print(line)
