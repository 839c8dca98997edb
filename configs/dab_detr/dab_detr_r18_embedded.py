# A narrow DAB-DETR with three stages of ResNet-18 in full precision on the embedded detection set. Its backbone starts
# from that of retinanet_r18_embedded.py: queries learn slowly.
_base_ = '../retinanet/retinanet_r18_embedded.py'

epochs = 60
attention = dict(embed_dims=128, num_heads=8)
ffn_cfg = dict(
    embed_dims=128, feedforward_channels=256, num_fcs=2, ffn_drop=0.0, act_cfg=dict(type='ReLU', inplace=True)
)

model = dict(
    _delete_=True,
    _scope_='mmdet',
    type='DABDETR',
    num_queries=20,
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[127.5, 127.5, 127.5], std=[64.0, 64.0, 64.0], pad_size_divisor=1
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_eval=False,
        init_cfg=dict(
            type='Pretrained', checkpoint='work_dirs/retinanet_r18_embedded/epoch_30.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        type='ChannelMapper', in_channels=[64], kernel_size=1, out_channels=128, act_cfg=None, norm_cfg=None, num_outs=1
    ),
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(self_attn_cfg=dict(dropout=0.0, batch_first=True, **attention), ffn_cfg=ffn_cfg),
    ),
    decoder=dict(
        num_layers=3,
        query_dim=4,
        query_scale_type='cond_elewise',
        with_modulated_hw_attn=True,
        layer_cfg=dict(
            self_attn_cfg=dict(attn_drop=0.0, proj_drop=0.0, cross_attn=False, **attention),
            cross_attn_cfg=dict(attn_drop=0.0, proj_drop=0.0, cross_attn=True, **attention),
            ffn_cfg=ffn_cfg,
        ),
        return_intermediate=True,
    ),
    positional_encoding=dict(num_feats=64, normalize=True),
    bbox_head=dict(
        type='DABDETRHead',
        num_classes=5,
        embed_dims=128,
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=20),
)
del attention, ffn_cfg  # in their places

# One by one, as MMDetection evaluates: the attention of a file has no masks for the padding of smaller images
val_dataloader = dict(batch_size=1)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=epochs, val_interval=epochs)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.3))),
)
param_scheduler = [  # ends at a quarter of the learning rate, from which quantized training goes on
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', T_max=90, eta_min=1e-5, by_epoch=True, convert_to_iter_based=True),
]
