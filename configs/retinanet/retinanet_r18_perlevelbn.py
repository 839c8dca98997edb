# RetinaNet-R18 on COCO in full precision with BatchNorm in the FPN and, a BatchNorm of each pyramid level's own, in the
# head (AQD, Chen et al., CVPR 2021): what retinanet_r18_perlevelbn_w4a4_acs.py starts from, and its baseline.
_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

custom_imports = dict(imports=['mmacs'], allow_failed_imports=False)

model = dict(
    type='mmacs.QuantizedModel',
    model='RetinaNet',
    recipe=None,
    neck=dict(norm_cfg=dict(type='BN')),
    bbox_head=dict(norm_cfg=dict(type='mmacs.PerLevelBN', num_levels=5)),
)
