"""Compare ways to choose images, and quantizers.

A grid of methods, fractions, recipes and seeds, in a small YAML file, is filled run by run. Raw rows go to
docs/results/GRID.csv, table and plots to work_dirs/compare/GRID. Safe to run again: what is done is skipped,
also if it was done on another machine, and a killed run goes on from its last epoch. See configs/comparisons.
"""

import argparse
import signal
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('grid', help='YAML file, see configs/comparisons')
    parser.add_argument('--jobs', type=_count, help='runs at a time; default: 1, or one for each of --gpus')
    parser.add_argument('--threads', type=_count, help='threads of each run; default: as the environment says')
    parser.add_argument('--gpus', type=int, nargs='+', default=[], help='numbers of the GPUs that runs share')
    parser.add_argument('--csv', type=Path, help='file of raw rows; default: docs/results/<grid>.csv')
    parser.add_argument('--work-dir', type=Path, help='runs, table and plots; default: work_dirs/compare/<grid>')
    parser.add_argument(
        '--report', action='store_true', help='train nothing: table and plots of the rows that are there'
    )


def main(args: argparse.Namespace) -> None:
    """Fill the grid, or make table and plots of what is there."""
    from mmacs.cli.comparison.grid import read_grid
    from mmacs.cli.comparison.run import Comparison, latest_rows, places_of, require_gpus, write_report

    signal.signal(signal.SIGTERM, _interrupt)  # so that no run outlives the command
    grid = read_grid(args.grid)
    csv = args.csv or Path('docs/results') / f'{grid.name}.csv'
    folder = args.work_dir or Path('work_dirs/compare') / grid.name
    if args.report:
        print(write_report(latest_rows(csv, grid), folder))
        return
    require_gpus(args.gpus)
    comparison = Comparison(args.grid, grid, csv, folder)
    try:
        comparison.fill(places_of(args.jobs, args.threads, args.gpus))
    finally:
        print(f'\n{comparison.write()}\nRows: {csv}. Table and plots: {folder}.', flush=True)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'it must be a whole number of at least 1, got {text!r}')
    return int(text)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
