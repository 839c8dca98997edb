"""The embedded data sets, drawn on first use with nothing downloaded, and label noise for any data set.

Importing it has the libraries' data sets read with care, see :mod:`mmacs.datasets.reading`.
An embedded data set needs one framework; those whose framework is not installed stay unregistered.
"""

from importlib.util import find_spec

from mmacs.datasets.label_noise import noisy_labels  # noqa: F401
from mmacs.datasets.reading import read_with_care

if find_spec('mmdet'):
    from mmacs.datasets.embedded_detection import EmbeddedDetection  # noqa: F401
if find_spec('mmpretrain'):
    from mmacs.datasets.embedded_classification import EmbeddedClassification  # noqa: F401

read_with_care()
