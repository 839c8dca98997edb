"""One small interface over ONNX Runtime and OpenVINO."""

from mmacs.deploy.runtimes.base import BACKENDS, Runtime, open_model

__all__ = ['BACKENDS', 'Runtime', 'open_model']
