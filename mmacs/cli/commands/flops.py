"""Count multiply-accumulates, bit operations, parameters and size of a model."""

import argparse

from mmacs.cli.options import add_run_options
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument(
        '--shape', type=int, nargs='+', default=[800, 1333], help='height and width, or one number for both'
    )


def main(args: argparse.Namespace) -> None:
    """Build the model, count, print."""
    from mmacs.cli import runs
    from mmacs.cli.complexity import build_model, complexity

    if len(args.shape) > 2:
        raise MmacsError(f'--shape takes height and width, or one number for both, got {args.shape}')
    height, width = args.shape[0], args.shape[-1]
    found = complexity(build_model(runs.load_config(args)), (height, width))
    print(f'one image of {height} x {width}: {found["macs"] / 1e9:.2f} G multiply-accumulates')
    print(
        f'bit operations: {found["bit_operations"] / 1e9:.2f} G, in full precision '
        f'{found["bit_operations_full_precision"] / 1e9:.2f} G'
    )
    print(f'parameters: {found["params"] / 1e6:.2f} M')
    print(f'size: {found["bytes"] / 1e6:.2f} MB, in full precision {found["bytes_full_precision"] / 1e6:.2f} MB')
