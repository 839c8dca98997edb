"""One small interface over ONNX Runtime and OpenVINO."""

from mmacs.deploy.runtimes.base import BACKENDS, TITLES, Runtime, open_model

__all__ = ['BACKENDS', 'TITLES', 'Runtime', 'open_model']
