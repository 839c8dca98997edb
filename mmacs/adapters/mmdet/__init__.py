"""What is known of MMDetection's models."""

from mmacs.adapters.mmdet import blocks, dense, layers, query, two_stage  # noqa: F401  registers them
