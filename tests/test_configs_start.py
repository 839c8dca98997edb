"""The large configs start as they are, once data and weights are where MMDetection and MMPreTrain expect them."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from mmacs.models.quantized_model import full_precision_config
from tests.conftest import REPO

pytestmark = pytest.mark.thorough
FEW = ['train_cfg.max_epochs=1', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
FEW += ['val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1']


def write_weights(model, scope, path):
    """Weights of a model of this config, as its libraries write them."""
    DefaultScope._instance_dict.clear()
    init_default_scope(scope)
    model = Config(full_precision_config(model))
    model.backbone.init_cfg = None
    built = MODELS.build(model)
    torch.save({'state_dict': built.state_dict(), 'meta': {}}, path)
    return path


def trained_epochs(work_dir):
    """What the run's record holds: the metrics of the last epoch."""
    lines = [json.loads(line) for line in next(work_dir.rglob('scalars.json')).read_text().splitlines()]
    return lines[-1]


@pytest.mark.parametrize('name', ['w4a4_acs', 'w3a3_acs', 'w2a2_acs_kd'])
def test_resnet18_on_imagenet(name, command, tmp_path):
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in range(1000):
            folder = tmp_path / 'data' / 'imagenet' / split / f'n{label:08d}'
            folder.mkdir(parents=True)
            if split == 'train' or label < 20:
                cv2.imwrite(str(folder / '0.png'), rng.integers(0, 255, (40, 48, 3), np.uint8))
    meta = tmp_path / 'data' / 'imagenet' / 'meta'
    meta.mkdir()
    (meta / 'val.txt').write_text(''.join(f'n{label:08d}/0.png {label}\n' for label in range(20)))
    config = REPO / 'configs' / 'resnet' / f'resnet18_imagenet_{name}.py'
    cfg = Config.fromfile(config)
    options = [f'load_from={write_weights(cfg.model, "mmpretrain", tmp_path / "resnet18.pth")}']
    if 'distillation' in cfg.default_hooks:
        teacher = Config.fromfile(_installed())
        weights = write_weights(teacher.model, 'mmpretrain', tmp_path / 'resnet101.pth')
        options.append(f'default_hooks.distillation.teacher.checkpoint={weights}')
    options += ['train_dataloader.batch_size=16', 'train_dataloader.sampler.fraction=0.032']
    status, error = command('train.py', config, '--cfg-options', *FEW, *options)
    assert (status, error) == (0, '')
    last = trained_epochs(tmp_path / 'work_dirs' / config.stem)
    assert np.isfinite(last['accuracy/top1'])
    assert json.loads((tmp_path / 'work_dirs' / config.stem / 'coreset' / 'summary.json').read_text())


def _installed():
    """MMPreTrain's own config of ResNet-101."""
    import mmpretrain

    return f'{mmpretrain.__path__[0]}/.mim/configs/resnet/resnet101_8xb32_in1k.py'


def test_retinanet_on_coco(command, tmp_path):
    rng = np.random.default_rng(0)
    coco = tmp_path / 'data' / 'coco'
    (coco / 'annotations').mkdir(parents=True)
    categories = [dict(id=number, name=name) for number, name in enumerate(CocoDataset.METAINFO['classes'], start=1)]
    for split, count in (('train', 8), ('val', 2)):
        (coco / f'{split}2017').mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            cv2.imwrite(
                str(coco / f'{split}2017' / f'{number:012d}.jpg'), rng.integers(0, 255, (120, 200, 3), np.uint8)
            )
            images.append(dict(id=number, file_name=f'{number:012d}.jpg', height=120, width=200))
            annotations.append(
                dict(id=number, image_id=number, category_id=number, bbox=[20, 20, 60, 50], area=3000, iscrowd=0)
            )
        content = dict(images=images, annotations=annotations, categories=categories)
        (coco / 'annotations' / f'instances_{split}2017.json').write_text(json.dumps(content))
    config = REPO / 'configs' / 'retinanet_r18_w4a4_acs.py'
    weights = write_weights(Config.fromfile(config).model, 'mmdet', tmp_path / 'retinanet.pth')
    status, error = command('train.py', config, '--cfg-options', *FEW, f'load_from={weights}')
    assert (status, error) == (0, '')
    assert (tmp_path / 'work_dirs' / config.stem / 'epoch_1.pth').exists()
