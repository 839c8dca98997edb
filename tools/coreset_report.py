"""Report what a run's coreset was, why, and what it cost: ``python tools/coreset_report.py WORK_DIR``."""

from mmacs import cli


def main() -> None:
    """Parse the options, write the page, print its path."""
    import argparse  # here, so that a missing framework is answered with one sentence
    from pathlib import Path

    from mmacs.cli.config_file import read_config
    from mmacs.utils.progress import phase
    from mmacs.visualization.coreset_report.page import write_report

    parser = argparse.ArgumentParser(description='Report what a run picked as its coreset, why, and what it cost')
    parser.add_argument('work_dir', type=Path, help='work dir of a run with mmacs.CoresetHook')
    parser.add_argument('--data-root', help='folder of the data set, in place of where the run had it')
    parser.add_argument(
        '--config',
        help='config of the run, which is executed; needed for runs of earlier versions, and for pictures of images '
        'that lie in no files of their own',
    )
    args = parser.parse_args()
    config = None if args.config is None else read_config(args.config)
    with phase('report'):
        page = write_report(args.work_dir, args.data_root, config)
    print(f'wrote {page}')


if __name__ == '__main__':
    cli.run(main)
