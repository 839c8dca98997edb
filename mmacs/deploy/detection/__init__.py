"""From images to boxes, scores and labels of a fixed size, as a module that can be traced."""

from mmacs.deploy.detection.outputs import detector_outputs, raw_outputs

__all__ = ['detector_outputs', 'raw_outputs']
