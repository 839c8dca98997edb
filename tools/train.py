"""Train a model from a config: ``python tools/train.py configs/retinanet_r18_w4a4_acs.py``."""

from mmacs import cli


def main() -> None:
    """Parse the options, build the runner, train."""
    parser = cli.common_parser('Train a quantized (or full-precision) model on a coreset')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate by the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or with "auto" or nothing from the latest in the work dir',
    )
    args = parser.parse_args()
    cfg = cli.load_config(args)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise cli.MmacsError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    cli.build_runner(cfg, ['train_dataloader', 'val_dataloader']).train()


if __name__ == '__main__':
    cli.run(main)
