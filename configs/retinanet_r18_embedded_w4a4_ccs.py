# Coverage-centric selection (Zheng et al. 2023, arXiv 2210.15809): as many images from each stratum of importance.
_base_ = './retinanet_r18_embedded_w4a4_acs.py'

default_hooks = dict(coreset=dict(selector=dict(type='mmacs.Stratified')))
