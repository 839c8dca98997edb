# YOLOX-Nano with weights of 4 bits.
_base_ = './yolox_nano_coco_mini_w8a8.py'

model = dict(recipe=dict(preset='w4a8'))
