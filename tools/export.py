"""Export a quantized model and prove the file: ``python tools/export.py CONFIG CHECKPOINT --out model.onnx``."""

from mmacs import cli


def main() -> None:
    """Parse the options, export, prove, write the file and its report."""
    from mmacs.deploy.packages import require  # here, so that a missing framework is answered with one sentence

    for name in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
        require(name)
    from pathlib import Path

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from mmacs.cli import commands
    from mmacs.cli.exporting import evaluation, images_of, load_trained
    from mmacs.cli.surroundings import surroundings
    from mmacs.deploy.benchmark import benchmark, float_content, speed_table
    from mmacs.deploy.export import exported, write_file
    from mmacs.deploy.exportable import FORMATS, TARGETS, require_free
    from mmacs.deploy.proof.prove import prove
    from mmacs.deploy.proof.report import float_size, machine, table_of, write_report
    from mmacs.hooks.run import unwrapped
    from mmacs.utils.errors import MmacsError

    parser = commands.common_parser('Export a trained quantized model to a file, and prove that it computes the same')
    parser.add_argument('checkpoint', help='checkpoint of the trained quantized model')
    parser.add_argument('--out', required=True, help='the file: .onnx, or .xml for OpenVINO')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'), help='an example of a size')
    parser.add_argument('--fixed-shape', action='store_true', help='the file takes one image of --shape, and no other')
    parser.add_argument('--raw', action='store_true', help="a detector's file gives what its head predicts, not boxes")
    parser.add_argument('--format', choices=FORMATS, default='qcdq', help='qcdq (default), or qonnx for FPGA flows')
    parser.add_argument('--target', choices=TARGETS, default='cpu', help='cpu (default), or the form TensorRT reads')
    parser.add_argument('--max-detections', type=int, help="detections per image; default: the model's")
    parser.add_argument('--score-threshold', type=float, help="lowest score of a detection; default: the model's")
    parser.add_argument('--class-agnostic', action='store_true', help='boxes of all classes suppress each other')
    parser.add_argument('--round-offsets', action='store_true', help='round offsets of activations to whole steps')
    parser.add_argument('--images', type=int, default=8, help='test images of the proof; default: 8')
    parser.add_argument('--evaluate', action='store_true', help='also measure the metric on all test images')
    parser.add_argument('--benchmark', action='store_true', help='also measure speeds beside float32 and torch')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    args = parser.parse_args()
    out = Path(args.out)
    require_free(out, args.force)
    if args.images < 1:
        raise MmacsError(f'--images must be at least 1, got {args.images}')
    if args.format == 'qonnx' and (args.evaluate or args.benchmark):
        raise MmacsError('--evaluate and --benchmark need a file that runtimes read, which --format qonnx is not')
    cfg = commands.load_config(args)
    columns = SpinnerColumn(), TextColumn('{task.description}'), TimeElapsedColumn()
    with surroundings(cfg.work_dir), Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task('model', total=None)

        def stage(name):
            progress.update(task, description=name)
            return lambda what: progress.update(task, description=f'{name}: {what}')

        runner = load_trained(cfg, args.checkpoint)
        model = unwrapped(runner)
        model.dataset_meta = {**(getattr(model, 'dataset_meta', None) or {}), **runner.val_dataloader.dataset.metainfo}
        result = exported(
            model,
            shape=args.shape,
            fixed_shape=args.fixed_shape,
            raw=args.raw,
            format=args.format,
            target=args.target,
            max_detections=args.max_detections,
            score_threshold=args.score_threshold,
            class_agnostic=args.class_agnostic,
            round_offsets=args.round_offsets,
            config=cfg,
            advance=stage('export'),
        )
        images = images_of(runner, result, args.images)
        report = {'file': str(out), 'about': {**machine(), 'config': args.config, 'checkpoint': args.checkpoint}}
        proof = prove(result.model, result.reference, result.simulation, images, advance=stage('proof'))
        report.update(proof.plain())
        sizes = report['sizes']
        sizes['file'], sizes['float32'] = result.model.ByteSize(), float_size(result.model)
        if args.evaluate:
            report['evaluation'] = evaluation(runner, result, stage('evaluation'))
            for row in report['evaluation']['rows']:
                if not row['passed']:
                    report['failures'].append(f'{row["of"]}: the metric is {row["value"]:.4f}')
        if args.benchmark and not report['failures']:
            shape = list(images[0].shape)
            floats = float_content(result, shape[2:])
            content = result.model.SerializeToString()
            report['benchmark'] = benchmark(content, floats, result.simulation, shape, advance=stage('speed'))
            sizes['float32'] = len(floats)
        report['passed'] = not report['failures']
    console = Console()
    console = console if console.is_terminal else Console(width=180)
    console.print(table_of(report))
    if report['failures']:
        raise MmacsError(f'{out} is not written, since it is not what was trained: {"; ".join(report["failures"])}')
    if 'benchmark' in report:
        console.print(speed_table(report['benchmark']))
    write_file(result, out, args.force)
    written = [out, *write_report(report, out.with_suffix(''))]
    console.print(f'wrote {", ".join(map(str, written))}', highlight=False)


if __name__ == '__main__':
    cli.run(main)
