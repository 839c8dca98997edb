"""Measure the speed of the file that a config is exported to.

It needs neither data nor a checkpoint: weights are the initial ones, which does not change what is computed where.
"""

import argparse

from mmacs.cli.options import add_run_options
from mmacs.deploy.forms import BACKENDS
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        default=[320, 320],
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images; default: 320 320',
    )
    parser.add_argument('--repetitions', type=int, default=15, help='forwards of which the median is taken')
    parser.add_argument('--threads', type=int, nargs='+', help='numbers of threads; default: one, and all cores')


def main(args: argparse.Namespace) -> None:
    """Build and calibrate the model, export, measure, print."""
    import torch

    from mmacs.adapters.base import adapter_of
    from mmacs.cli import runs
    from mmacs.cli.complexity import build_model
    from mmacs.cli.tables import table_console
    from mmacs.deploy.benchmark import benchmark, float_content, speed_table
    from mmacs.deploy.export import exported
    from mmacs.deploy.proof.integer_layers import layers_of, summary
    from mmacs.deploy.proof.report import machine, megabytes
    from mmacs.deploy.runtimes import open_model
    from mmacs.quantization import calibrate

    if args.repetitions < 1 or min(args.shape) < 1 or min(args.threads or [1]) < 1:
        raise MmacsError('--repetitions, --shape and --threads must be at least 1')
    cfg = runs.load_config(args)
    torch.manual_seed(0)
    model = build_model(cfg)
    pictures = torch.rand(2, 3, *args.shape) * 4 - 2  # as normalised pixels are
    adapter = adapter_of(model)
    calibrate(model, [pictures], model if adapter is None else adapter.dry_run)
    result = exported(model, shape=args.shape, config=cfg)
    content, floats = result.model.SerializeToString(), float_content(result, args.shape)
    report = benchmark(content, floats, result.simulation, (1, 3, *args.shape), args.repetitions, args.threads)
    console = table_console(120)
    console.print(speed_table(report))
    layers = layers_of(result.model)
    for backend in BACKENDS:
        found = summary(layers, backend, open_model(content, backend).integer_layers())
        console.print(f'{backend}: {found["integer"]} of {found["layers"]} layers in integers', highlight=False)
        for why, names in found['float'].items():
            console.print(f'  {len(names)}: {why}', highlight=False)
    ratio = len(floats) / len(content)
    console.print(f'{megabytes(len(content))}, in float32 {megabytes(len(floats))}: {ratio:.2f} times', highlight=False)
    about = machine()
    console.print(f'{about["machine"]}, {about["cores"]} cores, {about["date"]}', highlight=False)
