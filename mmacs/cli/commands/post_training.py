"""Quantize a trained model without training it: a checkpoint to train on, or to export.

What quantization-aware training has to beat. Ranges of LSQ are those of the least error (mse) or the extremes (minmax),
those of others their own, and weights are rounded to the nearest level. gpfq has the ranges of mse, and rounds the
weights of a neuron one after the other, each such that it makes good what those before it lost (Zhang, Zhou and Saab
2022).
"""

import argparse
from pathlib import Path

from mmacs.cli.options import add_run_options
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument('checkpoint', help='full-precision checkpoint')
    parser.add_argument('--method', choices=['gpfq', 'mse', 'minmax'], default='gpfq', help='default: gpfq')
    parser.add_argument(
        '--images', type=int, default=64, help='training images that gpfq runs for each layer; default: 64'
    )
    parser.add_argument('--out', required=True, help='the checkpoint to write, such as model.pth')
    parser.add_argument('--evaluate', action='store_true', help='measure the metric before and after')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')


def main(args: argparse.Namespace) -> None:
    """Calibrate, round, write the checkpoint."""
    from mmacs.cli import runs
    from mmacs.cli.post_training import quantize_after_training
    from mmacs.cli.tables import table_console
    from mmacs.utils.files import require_new

    if args.images < 1:
        raise MmacsError(f'--images must be at least 1, got {args.images}')
    require_new(args.out, args.force)
    cfg = runs.load_config(args)
    found = quantize_after_training(cfg, args.checkpoint, Path(args.out), args.method, args.images, args.evaluate)
    console = table_console(140)
    if found.scores:
        said = ', '.join(f'{value:.4f} {of}' for of, value in found.scores.items())
        console.print(f'{found.metric}: {said}', highlight=False)
    if found.left:
        count = len(found.left)
        console.print(
            f'the weight{"s" if count > 1 else ""} of {count} layer{"s" if count > 1 else ""} rounded to the nearest '
            f'level, since gpfq knows convolutions and linear maps on evenly spaced levels, as far as images reach '
            f'them: {", ".join(found.left[:5])}',
            highlight=False,
        )
    console.print(
        f'wrote {args.out} after {found.seconds:.0f} s: test and export take it as any other checkpoint, and training '
        f'goes on from it with --cfg-options load_from={args.out}',
        highlight=False,
    )
