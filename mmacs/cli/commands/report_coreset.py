"""Report what a run picked as its coreset, why, and what it cost."""

import argparse
from pathlib import Path

from mmacs.utils.errors import MmacsError
from mmacs.visualization.coreset_report.forms import KINDS, NUM_IMAGES, SUFFIXES


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('work_dir', type=Path, help='work dir of a run with mmacs.CoresetHook')
    parser.add_argument('--data-root', help='folder of the data set, in place of where the run had it')
    parser.add_argument(
        '--config',
        help='config of the run, which is executed; needed for --predict, for runs of earlier versions, and for '
        'pictures of images that lie in no files of their own',
    )
    parser.add_argument(
        '--images', type=int, default=NUM_IMAGES, metavar='N', help=f'images to show; default: {NUM_IMAGES}'
    )
    parser.add_argument(
        '--predict',
        nargs='?',
        const='',
        metavar='CHECKPOINT',
        help='also show what the models find in the images; CHECKPOINT is the newest in the work dir by default',
    )
    parser.add_argument(
        '--pictures',
        type=Path,
        metavar='FOLDER',
        help='with --predict, also draw detections.png (both models, validation images) and importance.png (images '
        'taken and left out, and why)',
    )
    parser.add_argument('--export', choices=[*SUFFIXES], help='in place of a page, write images in the form of others')
    parser.add_argument('--of', choices=KINDS, default=KINDS[0], help='images to export; default: chosen')
    parser.add_argument('--round', type=int, metavar='N', help='round to export; default: the last')
    parser.add_argument('--out', type=Path, help='file to export to; default: one in the work dir')


def main(args: argparse.Namespace) -> None:
    """Write the page or an export and print its path."""
    from mmacs.cli.config_file import read_config
    from mmacs.cli.coreset_reports import predicted_report
    from mmacs.utils.progress import phase
    from mmacs.visualization.coreset_report.export import export_images
    from mmacs.visualization.coreset_report.page import write_report
    from mmacs.visualization.coreset_report.read import read_rounds

    config = None if args.config is None else read_config(args.config)
    if args.images < 1:
        raise MmacsError(f'--images must be at least 1, got {args.images}')
    if args.export is not None:
        rounds = read_rounds(args.work_dir, args.data_root, config)
        path = export_images(rounds, args.work_dir, args.export, args.of, args.round, args.out)
    elif args.pictures is not None and args.predict is None:
        raise MmacsError('--pictures shows what the models detect: say --predict')
    elif args.predict is None:
        with phase('report'):
            path = write_report(args.work_dir, args.data_root, config, args.images)
    elif config is None:
        raise MmacsError('--predict builds the model of a config: say --config CONFIG')
    else:
        path = predicted_report(args.work_dir, args.predict, args.data_root, config, args.images, args.pictures)
    print(f'wrote {path}')
