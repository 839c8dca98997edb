# Narrow detectors from scratch on small data sets: AdamW, few checkpoints, some pictures. Epochs and learning-rate
# schedule are the config's own.
_base_ = ['mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, weight_decay=0.05), clip_grad=dict(max_norm=10)
)
default_hooks = dict(
    logger=dict(interval=25), checkpoint=dict(max_keep_ckpts=1), visualization=dict(interval=10, score_thr=0.4)
)
