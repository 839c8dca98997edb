# A narrow Dynamic R-CNN-R18 in full precision on the embedded detection set. Of MMDetection's settings, which are for
# 2000 proposals and 512 samples of an image, those that count them are scaled to the 400 and 64 of these small images.
_base_ = '../faster_rcnn/faster_rcnn_r18_embedded.py'

model = dict(
    roi_head=dict(
        type='DynamicRoIHead',
        bbox_head=dict(loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1.0, loss_weight=1.0)),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms=dict(iou_threshold=0.85), max_per_img=400),
        rcnn=dict(
            dynamic_rcnn=dict(iou_topk=15, beta_topk=6, update_iter_interval=20, initial_iou=0.4, initial_beta=1.0)
        ),
    ),
    test_cfg=dict(rpn=dict(nms=dict(iou_threshold=0.85))),
)
custom_hooks = [dict(type='mmacs.DynamicThresholdsHook')]  # a resumed run goes on with its thresholds
