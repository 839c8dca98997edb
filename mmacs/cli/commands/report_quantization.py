"""Report what quantization does to each layer of a model."""

import argparse
from pathlib import Path

from mmacs.cli.options import add_run_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument(
        'checkpoint', nargs='?', help="checkpoint, quantized or not (then calibrated); default: the config's load_from"
    )
    parser.add_argument('--images', type=int, default=256, help='validation images to measure on; default: 256')
    parser.add_argument(
        '--sensitivity',
        type=int,
        default=0,
        metavar='N',
        help='also quantize each layer alone and measure the metric on N validation images; default: 0, do not',
    )
    parser.add_argument('--out', help='folder for the report; default: quant_report in the work dir')


def main(args: argparse.Namespace) -> None:
    """Measure, print the table, write the report."""
    from mmacs.cli import runs
    from mmacs.cli.quantized_run import calibrate_runner, load_quantized
    from mmacs.cli.tables import table_console
    from mmacs.evaluation.layers import measure_layers
    from mmacs.hooks.run import unwrapped
    from mmacs.quantization import quantizers
    from mmacs.quantization.analysis.report import report_summary, report_table
    from mmacs.visualization.quantization_report import write_report

    cfg = runs.load_config(args)
    runner = load_quantized(cfg, args.checkpoint)
    if not all(quantizer.is_initialized() for _, quantizer in quantizers(unwrapped(runner))):
        calibrate_runner(runner)
    report = {**measure_layers(runner, args.images, args.sensitivity), 'config': args.config}
    page = write_report(report, Path(args.out or Path(cfg.work_dir) / 'quant_report'))
    console = table_console(220, least=220)  # layers of detectors have long names
    console.print(report_table(report))
    for line in report_summary(report):
        console.print(line, highlight=False)
    console.print(f'wrote {page}, and report.json and report.png beside it', highlight=False)
