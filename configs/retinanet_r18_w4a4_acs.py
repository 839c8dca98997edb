# The command of the README: python tools/train.py configs/retinanet_r18_w4a4_acs.py
_base_ = './retinanet/retinanet_r18_w4a4_acs.py'
