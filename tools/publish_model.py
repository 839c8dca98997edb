"""Make a checkpoint ready to hand out: ``python tools/publish_model.py work_dirs/run/epoch_12.pth model.pth``.

With ``--packed CONFIG`` as one small file for ``mmacs.load``, which needs no config: ``... model.mmacs --packed
CONFIG``.
"""

import argparse

from mmacs import cli


def main() -> None:
    """Parse the options, write the checkpoint, print its path and size."""
    from mmacs.cli.config_file import read_config  # here, so that a missing framework is answered with one sentence
    from mmacs.cli.publish import publish, publish_packed

    parser = argparse.ArgumentParser(description='Strip a checkpoint of all that only training needs')
    parser.add_argument('in_file', help='the checkpoint')
    parser.add_argument('out_file', help='where to write it; eight digits of its hash are put into the name of a .pth')
    parser.add_argument('--packed', metavar='CONFIG', help='write weights at their bit-width, for mmacs.load')
    parser.add_argument('--force', action='store_true', help='with --packed, replace a file that is there')
    args = parser.parse_args()
    if args.packed:
        final = publish_packed(args.in_file, args.out_file, read_config(args.packed), args.force)
    else:
        final = publish(args.in_file, args.out_file)
    print(f'wrote {final} ({final.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    cli.run(main)
