"""What is known of MMPreTrain's models."""

from mmacs.adapters.mmpretrain import classifier  # noqa: F401  registers it
