"""What the commands under ``tools/`` share."""

from mmacs.cli.entry import explain, run

__all__ = ['explain', 'run']
