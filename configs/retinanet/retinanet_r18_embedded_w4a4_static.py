# A random 30 %, drawn once. With redraw=True, retinanet_r18_embedded_w4a4.py, it is the baseline to beat.
_base_ = './retinanet_r18_embedded_w4a4.py'

train_dataloader = dict(sampler=dict(redraw=False))
