# People in a small part of COCO at W4A4 on an adaptive coreset of 30 % of the images.
_base_ = ['./retinanet_r18_coco_person_w4a4.py', '../_base_/qat/coreset_detection.py']

train_dataloader = dict(sampler=dict(fraction=0.3))
default_hooks = dict(coreset=_base_.pop('coreset_hook'))
