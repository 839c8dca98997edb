# InfoBatch (Qin et al. 2024, arXiv 2303.04947) at a fixed budget: of images with small losses, which training itself
# gives after the first round, only some are drawn, and these count for more; the last epochs use all data.
_base_ = './retinanet_r18_embedded_w4a4_acs.py'

default_hooks = dict(
    coreset=dict(
        importance=dict(weights=dict(loss=1.0), normalisation='none'),
        selector=dict(type='mmacs.SoftPruning'),
        schedule=dict(interval=1, full_data_last=2),
        cost=dict(harvest=True, rescore=0.0),
        unbiased=True,
    )
)
