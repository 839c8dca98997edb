# CIFAR-10 as MMPreTrain knows it: the original pickled batches in data/cifar10, downloaded if they are not there.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

data_preprocessor = dict(
    # as in cifar10_folders.py, for the public weights; these images are loaded as RGB
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
)

train_dataloader = dict(batch_size=128, persistent_workers=True)
val_dataloader = dict(batch_size=128, persistent_workers=True)
test_dataloader = val_dataloader
