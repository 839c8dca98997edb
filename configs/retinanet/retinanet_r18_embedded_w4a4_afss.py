# AFSS (Xie et al. 2026, arXiv 2603.17684) at a fixed budget: images on which the model detects badly are drawn often,
# those it detects well rarely, and none stays away for more than two rounds.
_base_ = './retinanet_r18_embedded_w4a4_acs.py'

default_hooks = dict(
    coreset=dict(
        importance=dict(weights=dict(sufficiency=1.0), normalisation='none'),
        selector=dict(type='mmacs.Tiers'),
        constraints=dict(max_gap=2),
        schedule=dict(interval=5),
    )
)
