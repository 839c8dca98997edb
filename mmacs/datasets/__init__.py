"""Embedded data sets: drawn on first use, nothing is downloaded.

Each needs one framework; those whose framework is not installed stay unregistered.
"""

from importlib.util import find_spec

if find_spec('mmdet'):
    from mmacs.datasets.embedded_detection import EmbeddedDetection  # noqa: F401
if find_spec('mmpretrain'):
    from mmacs.datasets.embedded_classification import EmbeddedClassification  # noqa: F401
