"""Run an exported file on a picture; no framework is needed, only what runs the file."""

from mmacs.deploy.infer import add_options
from mmacs.deploy.infer import infer as main

__all__ = ['add_options', 'main']
