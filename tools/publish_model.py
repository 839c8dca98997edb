"""Make a checkpoint ready to hand out: ``python tools/publish_model.py work_dirs/run/epoch_12.pth model.pth``."""

import argparse

from mmacs import cli


def main() -> None:
    """Parse the options, write the checkpoint, print its path and size."""
    from mmacs.cli.publish import publish  # here, so that a missing framework is answered with one sentence

    parser = argparse.ArgumentParser(description='Strip a checkpoint of all that only training needs')
    parser.add_argument('in_file', help='the checkpoint')
    parser.add_argument('out_file', help='where to write it; eight digits of its hash are put into the name')
    args = parser.parse_args()
    final = publish(args.in_file, args.out_file)
    print(f'wrote {final} ({final.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    cli.run(main)
