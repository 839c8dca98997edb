"""Test-time augmentation (TTA): a config whose model averages over views of each image."""

from copy import deepcopy

from mmengine.config import Config, ConfigDict

from mmacs.cli.runs import check_loader
from mmacs.utils.errors import MmacsError

# What MMDetection's and MMPreTrain's own tools/test.py take where a config has no tta_model.
_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmpretrain': dict(type='mmpretrain.AverageClsScoreTTA'),
}
_DET_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def augment_testing(cfg: Config) -> None:
    """Wrap the model of a config in its ``tta_model``, and test with its ``tta_pipeline``, in place.

    Where the config has none, the model merges what it predicts for an image and its mirror image.

    Args:
        cfg (Config): A config with a ``test_dataloader``.

    Raises:
        MmacsError: If the config has no ``tta_model`` and is none of MMDetection or MMPreTrain, or is not as TTA needs.
    """
    check_loader('test_dataloader', cfg.get('test_dataloader'), pipelines='tta_pipeline' not in cfg)
    for key, kind in (('tta_model', dict), ('tta_pipeline', list)):
        if not isinstance(cfg.get(key, kind()), kind):
            raise MmacsError(f'{key} must be a {kind.__name__}, got {cfg[key]!r}')
    scope = cfg.get('default_scope')
    if 'tta_model' not in cfg:
        if scope not in _MODELS:
            raise MmacsError(f'--tta needs tta_model in the config: there is no default for default_scope={scope!r}')
        cfg.tta_model = deepcopy(_MODELS[scope])
    data = cfg.test_dataloader.dataset
    while 'dataset' in data:
        data = data.dataset
    if 'pipeline' not in data:
        raise MmacsError('--tta needs a test_dataloader.dataset with a pipeline of its own')
    if 'tta_pipeline' not in cfg:
        *before, pack = deepcopy(data.pipeline)
        if scope == 'mmdet':
            pack.meta_keys = _DET_META_KEYS
        flips = [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]
        cfg.tta_pipeline = [*before, dict(type='TestTimeAug', transforms=[flips, [pack]])]
    data.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
