"""Count what one image costs a model: ``python tools/get_flops.py CONFIG --shape 800 1333``."""

from mmacs import cli


def main() -> None:
    """Parse the options, build the model, count, print."""
    from mmacs.cli import commands  # here, so that a missing framework is answered with one sentence
    from mmacs.cli.complexity import build_model, complexity
    from mmacs.utils.errors import MmacsError

    parser = commands.common_parser('Count multiply-accumulates, bit operations, parameters and size of a model')
    parser.add_argument(
        '--shape', type=int, nargs='+', default=[800, 1333], help='height and width, or one number for both'
    )
    args = parser.parse_args()
    if len(args.shape) > 2:
        raise MmacsError(f'--shape takes height and width, or one number for both, got {args.shape}')
    height, width = args.shape[0], args.shape[-1]
    found = complexity(build_model(commands.load_config(args)), (height, width))
    print(f'one image of {height} x {width}: {found["macs"] / 1e9:.2f} G multiply-accumulates')
    print(
        f'bit operations: {found["bit_operations"] / 1e9:.2f} G, in full precision '
        f'{found["bit_operations_full_precision"] / 1e9:.2f} G'
    )
    print(f'parameters: {found["params"] / 1e6:.2f} M')
    print(f'size: {found["bytes"] / 1e6:.2f} MB, in full precision {found["bytes_full_precision"] / 1e6:.2f} MB')


if __name__ == '__main__':
    cli.run(main)
