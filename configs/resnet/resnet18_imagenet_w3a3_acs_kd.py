_base_ = './resnet18_imagenet_w4a4_acs_kd.py'

model = dict(recipe=dict(preset='w3a3'))
