"""Train a model from a config, quantized or in full precision, on all images or a coreset."""

import argparse

from mmacs.cli.options import add_run_options
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision; on a CPU in bfloat16')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or with "auto" or nothing from the latest in the work dir, if there is one',
    )


def main(args: argparse.Namespace) -> None:
    """Build the runner and train."""
    from mmacs.cli import runs
    from mmacs.cli.surroundings import surroundings
    from mmacs.utils.checkpoints import latest_checkpoint

    cfg = runs.load_config(args)
    if args.amp:
        if not isinstance(cfg.get('optim_wrapper'), dict):
            raise MmacsError('--amp needs an optim_wrapper in the config')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise MmacsError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    with surroundings(cfg.work_dir):
        runs.take_work_dir(cfg)
        checkpoint = latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        if checkpoint is not None:  # a run that was killed before its first checkpoint starts anew, from load_from
            cfg.resume, cfg.load_from = True, checkpoint
        runs.train(runs.build_runner(cfg, ['train_dataloader', 'val_dataloader']))
