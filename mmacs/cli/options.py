"""The options that commands share. Nothing heavy is imported for them, so that ``--help`` takes no time."""

import argparse


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of all commands that work on a config, those that MMDetection users expect.

    :func:`mmacs.cli.runs.load_config` applies them.
    """
    parser.add_argument('config', help='path of the config')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; default: work_dirs/<name of the config>')
    parser.add_argument('--data-root', help="folder of the data set, in place of the config's data_root")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='settings to change in the config, such as train_dataloader.sampler.fraction=0.1',
    )
    parser.add_argument(
        '--verbose',
        action='store_true',
        help="show on the screen what else goes to the log's file alone: versions, config, hooks, quantized layers",
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')
