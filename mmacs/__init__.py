"""mmacs: low-bit quantization-aware training on an adaptively selected coreset, for MMEngine projects."""

from mmacs.compat import check_frameworks
from mmacs.version import __version__

check_frameworks()

__all__ = ['__version__']
