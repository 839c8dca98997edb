# Coverage-centric selection (Zheng et al. 2023, arXiv 2210.15809): as many images from each stratum of errors,
# raw ones, since strata of ranks are all alike. The share of the hardest images that is cut is ours.
_base_ = './retinanet_r18_embedded_w4a4_acs.py'

default_hooks = dict(
    coreset=dict(
        importance=dict(weights=dict(evs=1.0), normalisation='none'),
        selector=dict(type='mmacs.Stratified', hard_cut=0.1),
    )
)
