"""List the models that are supported, and what works with each."""

import argparse

from mmacs.cli.supported import MODELS, SCORERS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument('--kind', choices=list(SCORERS), help='models of this kind alone')


def main(args: argparse.Namespace) -> None:
    """Print the table."""
    from rich.table import Table

    from mmacs.cli.tables import table_console

    table = Table()
    for heading in ('model', 'kind', 'quantized training', 'coreset, scored by', 'export', 'tested with'):
        table.add_column(heading, overflow='fold')
    for name, row in MODELS.items():
        if args.kind in (None, row.kind):
            export = 'yes' if row.exports else 'not tested'
            scorer = SCORERS[row.kind] if row.scored else "random, preset='rs2'"
            table.add_row(name, row.kind, 'yes', scorer, export, row.config)
    console = table_console()
    console.print(table)
    console.print(
        'Other models, also your own, are converted layer by layer; what is not known of one is told in one sentence.\n'
        'What becomes of its layers: mmacs report quantization CONFIG.',
        highlight=False,
    )
