_base_ = './retinanet_r18_w4a4_acs.py'

model = dict(recipe=dict(preset='w4a4-int'))
