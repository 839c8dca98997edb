# W4A4 on a coreset, of the RetinaNet that has BatchNorm in its FPN and per pyramid level in its head.
_base_ = './retinanet_r18_w4a4_acs.py'

load_from = 'work_dirs/retinanet_r18_perlevelbn/epoch_12.pth'
model = dict(
    neck=dict(norm_cfg=dict(type='BN')),
    bbox_head=dict(norm_cfg=dict(type='mmacs.PerLevelBN', num_levels=5)),
)
