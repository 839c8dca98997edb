"""Quantization after training: weights that are rounded by what the layer's inputs make of them."""

from mmacs.quantization.post_training.gpfq import follow_paths, layers_to_follow
from mmacs.quantization.post_training.greedy_path import greedy_path

__all__ = ['follow_paths', 'greedy_path', 'layers_to_follow']
