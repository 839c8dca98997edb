# The embedded classification set in full precision on a coreset of 30 %: selection without quantization.
_base_ = ['./resnet20_embedded.py', '../_base_/qat/coreset_classification.py']

train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction=0.3))
default_hooks = dict(coreset=dict(_base_.pop('coreset_hook'), schedule=dict(warmup=2, interval=2)))
