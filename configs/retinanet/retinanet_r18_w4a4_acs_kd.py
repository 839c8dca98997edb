# With distillation from the full-precision model that the run starts from: class and box outputs of the head, and the
# outputs of the backbone's stages.
_base_ = './retinanet_r18_w4a4_acs.py'

default_hooks = dict(distillation=dict(type='mmacs.DistillationHook', weight=1.0, layers='backbone.layer*'))
