# The embedded detection set in full precision on a coreset of 30 %: selection without quantization.
_base_ = ['./retinanet_r18_embedded.py', '../_base_/qat/coreset_detection.py']

train_dataloader = dict(sampler=dict(_delete_=True, type='mmacs.CoresetSampler', fraction=0.3))
default_hooks = dict(coreset=dict(_base_.pop('coreset_hook'), schedule=dict(warmup=5, interval=5)))
