"""Export a trained quantized model to a file, and prove that it computes the same."""

import argparse
from pathlib import Path

from mmacs.cli.options import add_run_options
from mmacs.deploy.forms import FORMATS, TARGETS
from mmacs.deploy.packages import require
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument('checkpoint', help='checkpoint of the trained quantized model')
    parser.add_argument('--bits', type=int, help='of a model with several bit-widths, the one to export')
    parser.add_argument('--out', required=True, help='the file: .onnx, or .xml for OpenVINO')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images that are traced; the file takes others too',
    )
    parser.add_argument('--fixed-shape', action='store_true', help='the file takes one image of --shape, and no other')
    parser.add_argument('--raw', action='store_true', help="a detector's file gives what its head predicts, not boxes")
    parser.add_argument('--format', choices=FORMATS, default='qcdq', help='qcdq (default), or qonnx for FPGA flows')
    parser.add_argument('--target', choices=TARGETS, default='cpu', help='cpu (default), or the form TensorRT reads')
    parser.add_argument('--max-detections', type=int, help="detections per image; default: the model's")
    parser.add_argument('--score-threshold', type=float, help="lowest score of a detection; default: the model's")
    parser.add_argument('--class-agnostic', action='store_true', help='boxes of all classes suppress each other')
    parser.add_argument('--round-offsets', action='store_true', help='round offsets of activations to whole steps')
    parser.add_argument(
        '--calibrate', action='store_true', help='calibrate quantizers without a range on training images first'
    )
    parser.add_argument('--images', type=int, default=8, help='test images of the proof; default: 8')
    parser.add_argument('--evaluate', action='store_true', help='also measure the metric on all test images')
    parser.add_argument('--benchmark', action='store_true', help='also measure speeds beside float32 and torch')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')


def main(args: argparse.Namespace) -> None:
    """Export, prove, write the file and its report."""
    for name in ('onnx', 'onnxscript', 'onnxruntime', 'openvino'):
        require(name)

    from mmacs.cli import runs
    from mmacs.cli.exporting import export_run, require_passed
    from mmacs.cli.tables import table_console
    from mmacs.deploy.benchmark import speed_table
    from mmacs.deploy.proof.report import table_of

    if args.fixed_shape and not args.shape:
        raise MmacsError('--fixed-shape needs --shape HEIGHT WIDTH')
    if args.images < 1:
        raise MmacsError(f'--images must be at least 1, got {args.images}')
    if args.format == 'qonnx' and (args.evaluate or args.benchmark):
        raise MmacsError('--evaluate and --benchmark need a file that runtimes read, which --format qonnx is not')
    report = export_run(
        runs.load_config(args),
        args.checkpoint,
        Path(args.out),
        bits=args.bits,
        calibrate=args.calibrate,
        images=args.images,
        evaluate=args.evaluate,
        measure_speed=args.benchmark,
        force=args.force,
        shape=args.shape,
        fixed_shape=args.fixed_shape,
        raw=args.raw,
        format=args.format,
        target=args.target,
        max_detections=args.max_detections,
        score_threshold=args.score_threshold,
        class_agnostic=args.class_agnostic,
        round_offsets=args.round_offsets,
    )
    console = table_console()
    console.print(table_of(report))
    require_passed(report)
    if 'benchmark' in report:
        console.print(speed_table(report['benchmark']))
    console.print(f'wrote {", ".join(report["written"])}', markup=False, highlight=False)
