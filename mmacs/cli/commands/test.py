"""Evaluate a checkpoint or an exported file."""

import argparse
from pathlib import Path

from mmacs.cli.options import add_run_options
from mmacs.deploy.forms import BACKENDS, SUFFIXES
from mmacs.utils.errors import MmacsError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_options(parser)
    parser.add_argument('checkpoint', help='path of the checkpoint, or of an exported file, .onnx or .xml')
    parser.add_argument(
        '--backend',
        choices=BACKENDS,
        help='what runs an exported file; default: onnxruntime, or openvino for .xml',
    )
    parser.add_argument('--show-dir', help="folder for pictures of detections, within the run's folder")
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, by default with mirror images')


def main(args: argparse.Namespace) -> None:
    """Build the runner and evaluate."""
    import matplotlib
    from mmengine.runner import CheckpointLoader

    from mmacs.cli import runs
    from mmacs.cli.augmentation import augment_testing
    from mmacs.cli.exported import put_exported, require_classes
    from mmacs.cli.surroundings import surroundings
    from mmacs.hooks.quantization_hook import STATE_KEY
    from mmacs.hooks.run import unwrapped
    from mmacs.quantization import quantizers
    from mmacs.utils.type_names import type_name

    cfg = runs.load_config(args)
    is_exported = Path(args.checkpoint).suffix in SUFFIXES
    cfg.load_from, cfg.resume = args.checkpoint, False
    if is_exported:
        put_exported(cfg, args.checkpoint, args.backend)
    elif args.backend:
        raise MmacsError(f'--backend runs exported files ({", ".join(SUFFIXES)}), and {args.checkpoint} is none')
    if args.tta:
        augment_testing(cfg)
    if args.show_dir:
        matplotlib.rcParams['text.parse_math'] = False  # names of classes may hold dollar signs
        hook = cfg.default_hooks.get('visualization') or {}
        kind = type_name(hook.get('type'))
        if kind == 'DetVisualizationHook':
            hook.update(draw=True, test_out_dir=args.show_dir)
        elif kind == 'VisualizationHook':  # MMPreTrain's
            hook.update(enable=True, out_dir=args.show_dir)
        else:
            raise MmacsError("--show-dir needs MMDetection's or MMPreTrain's hook as default_hooks.visualization")
    with surroundings(cfg.work_dir):
        runner = runs.build_runner(cfg, ['test_dataloader'])
        if is_exported:
            require_classes(runner)
        elif next(quantizers(unwrapped(runner)), None) is None:
            checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu')
            if STATE_KEY in checkpoint:
                raise MmacsError(
                    'this checkpoint is of a quantized model, and the config of one in full precision: use the config '
                    'that it was trained with, of which there is a copy beside it'
                )
        runner.test()
