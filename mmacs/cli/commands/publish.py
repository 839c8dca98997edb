"""Strip a checkpoint of all that only training needs, or pack its model into one small file."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('in_file', help='the checkpoint')
    parser.add_argument('out_file', help='where to write it; eight digits of its hash are put into the name of a .pth')
    parser.add_argument('--packed', metavar='CONFIG', help='write weights at their bit-width, for mmacs.load')
    parser.add_argument('--force', action='store_true', help='with --packed, replace a file that is there')


def main(args: argparse.Namespace) -> None:
    """Write the checkpoint, print its path and size."""
    from mmacs.cli.config_file import read_config
    from mmacs.cli.publish import publish, publish_packed

    if args.packed:
        final = publish_packed(args.in_file, args.out_file, read_config(args.packed), args.force)
    else:
        final = publish(args.in_file, args.out_file)
    print(f'wrote {final} ({final.stat().st_size / 1e6:.1f} MB)')
