# EL2N (Paul et al. 2021, arXiv 2107.07075): the largest errors early in training, chosen once and kept.
_base_ = './retinanet_r18_embedded_w4a4_acs.py'

default_hooks = dict(coreset=dict(importance=dict(weights=dict(evs=1.0)), schedule=dict(warmup=2, rounds=1)))
