# The embedded detection set with all that a runtime stores in integers: see docs/deployment.md
_base_ = './retinanet_r18_embedded_w4a4_acs.py'
model = dict(recipe=dict(preset='w4a4-int'))
