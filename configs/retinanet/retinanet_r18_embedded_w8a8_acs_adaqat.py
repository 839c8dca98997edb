# The embedded detection set with bit-widths learned during training: from W8A8 down to a quarter of the bit operations,
# those of W4A4, however weights and activations share them.
_base_ = './retinanet_r18_embedded_w4a4_acs.py'

model = dict(recipe=dict(preset='w8a8'))
default_hooks = dict(
    adaptive_bits=dict(
        type='mmacs.AdaptiveBitsHook', target=0.25, cost_weight=2.0, lr=1.0, interval=2, freeze_epoch=10
    ),
)
