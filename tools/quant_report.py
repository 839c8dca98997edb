"""Report what quantization does to each layer: ``python tools/quant_report.py CONFIG [CHECKPOINT]``."""

from mmacs import cli


def main() -> None:
    """Parse the options, measure, print the table, write report.json and report.png."""
    import json  # here, so that a missing framework is answered with one sentence
    from pathlib import Path

    from rich.console import Console

    from mmacs.cli import commands
    from mmacs.cli.quantized_run import calibrate_runner, load_quantized
    from mmacs.evaluation.validation import Validation
    from mmacs.hooks.run import unwrapped
    from mmacs.quantization import disabled, quantizers
    from mmacs.quantization.analysis.cost import count_macs
    from mmacs.quantization.analysis.report import make_report, report_summary, report_table
    from mmacs.quantization.analysis.sensitivity import only, quantizers_by_layer
    from mmacs.quantization.analysis.statistics import measure
    from mmacs.utils.files import write_whole
    from mmacs.utils.progress import phase
    from mmacs.visualization.quantization import draw_report

    parser = commands.common_parser('Report what quantization does to each layer of a model')
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
    parser.add_argument('--out', help='folder for report.json and report.png; default: quant_report in the work dir')
    args = parser.parse_args()
    cfg = commands.load_config(args)
    runner = load_quantized(cfg, args.checkpoint)
    model = unwrapped(runner)
    if not all(quantizer.is_initialized() for _, quantizer in quantizers(model)):
        calibrate_runner(runner)

    validation = Validation(runner, args.images)
    macs = count_macs(model, validation.forward_one)
    with phase('statistics of all layers', len(validation.loader), 'batches') as under_way:
        statistics = measure(model, under_way.each(validation.loader), validation.forward)

    sensitivity, drops = {}, {}
    if args.sensitivity:
        part = Validation(runner, args.sensitivity)
        layers = quantizers_by_layer(model)
        with phase('sensitivity', 2 + len(layers), 'evaluations') as under_way:
            with disabled(model):
                full = part.score()
            under_way.advance()
            sensitivity = {'metric': part.metric, 'images': part.num_images, 'full_precision': full}
            sensitivity['quantized'] = part.score()
            under_way.advance()
            for layer in under_way.each(layers):
                with only(model, [layer]):
                    drops[layer] = full - part.score()

    report = {
        'config': args.config,
        'checkpoint': cfg.load_from,
        'model': type(model).__name__,
        'images': validation.num_images,
        'input_shape': validation.input_shape(),
        'sensitivity': sensitivity,
        **make_report(model, statistics, macs, drops),
    }
    folder = Path(args.out or Path(cfg.work_dir) / 'quant_report')
    write_whole(folder / 'report.json', json.dumps(report, indent=1).encode())
    draw_report(report, folder / 'report.png')
    console = Console()
    console = console if console.is_terminal else Console(width=180)
    console.print(report_table(report))
    for line in report_summary(report):
        console.print(line, highlight=False)
    console.print(f'wrote {folder / "report.json"} and {folder / "report.png"}', highlight=False)


if __name__ == '__main__':
    cli.run(main)
