"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``."""

from mmacs import cli


def main() -> None:
    """Parse the options, build the runner, evaluate."""
    parser = cli.common_parser('Evaluate a checkpoint')
    parser.add_argument('checkpoint', help='path of the checkpoint')
    parser.add_argument('--show-dir', help='folder, within the work dir, for pictures of detections')
    args = parser.parse_args()
    cfg = cli.load_config(args)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show_dir:
        hook = cfg.default_hooks.get('visualization')
        if hook is None:
            raise cli.MmacsError('--show-dir needs default_hooks.visualization in the config')
        hook.draw = hook.enable = True
        hook.test_out_dir = args.show_dir
    cli.build_runner(cfg, ['test_dataloader']).test()


if __name__ == '__main__':
    cli.run(main)
