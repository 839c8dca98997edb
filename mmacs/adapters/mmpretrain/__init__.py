"""What is known of MMPreTrain's models."""

from mmacs.adapters.mmpretrain import blocks, classifier, layers  # noqa: F401  registers them
