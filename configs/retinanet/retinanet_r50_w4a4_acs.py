# RetinaNet-R50: as retinanet_r18_w4a4_acs.py, with the larger backbone and its own checkpoint.
_base_ = './retinanet_r18_w4a4_acs.py'

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth'  # noqa: E501

model = dict(backbone=dict(depth=50), neck=dict(in_channels=[256, 512, 1024, 2048]))
