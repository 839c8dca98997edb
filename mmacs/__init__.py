"""mmacs: low-bit quantization-aware training on an adaptively selected coreset, for MMEngine projects."""

from mmacs.version import __version__

__all__ = ['__version__']
