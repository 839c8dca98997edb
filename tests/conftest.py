"""Shared fixtures: small detectors built from MMDetection's own configs, and a small COCO data set on disk."""

import gc
import json
import runpy
import sys
from pathlib import Path

import cv2
import mmdet
import mmengine.config.config
import numpy as np
import pytest
import torch
import yapf.yapflib.yapf_api
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.utils import ManagerMixin

from mmacs.models.quantized_model import full_precision_config

# Laying out configs, describing the machine and collecting garbage take MMEngine a third of so small a run.
for module in (mmengine.config.config, yapf.yapflib.yapf_api):  # older MMEngine knows the function by its own name
    module.FormatCode = lambda text, **kwargs: (text, True)
Runner._log_env = lambda *args: None

REPO = Path(__file__).parents[1]
SHIPPED = Path(mmdet.__file__).parent / '.mim' / 'configs'  # MMDetection's own


def pytest_collection_finish(session):
    """What was imported stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


def pytest_collectstart(collector):
    """What a file draws when it is imported, as for `parametrize`, is the same in every run of it."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)
        np.random.seed(0)


def forget_instances(manager: type) -> None:
    """Loggers, visualizers and scopes live as long as the process; each test gets its own."""
    manager._instance_dict.clear()
    for kind in manager.__subclasses__():
        forget_instances(kind)


@pytest.fixture(autouse=True)
def _mmdet_scope():
    """Detectors are built in MMDetection's scope; every test starts from the same random state."""
    torch.manual_seed(0)
    np.random.seed(0)
    init_default_scope('mmdet')
    yield
    forget_instances(ManagerMixin)


@pytest.fixture
def tiny_retinanet() -> ConfigDict:
    """Config of a narrow RetinaNet-R18 with 3 classes."""
    model = ConfigDict(full_precision_config(Config.fromfile(REPO / 'configs' / 'retinanet_r18_w4a4_acs.py').model))
    model.backbone.base_channels = 8
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
    return model


def write_coco(folder: Path, sizes, boxes_per_image, crowd_image=None, seed=0) -> Path:
    """Write images and a COCO annotation file; returns the file."""
    rng = np.random.default_rng(seed)
    (folder / 'images').mkdir(parents=True)
    images, annotations = [], []
    for image_id, ((height, width), count) in enumerate(zip(sizes, boxes_per_image), start=1):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        name = f'{image_id:03d}.png'
        for _ in range(count):
            w, h = rng.integers(12, 30, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            category = int(rng.integers(1, 4))
            pixels[y : y + h, x : x + w] = 80 * category
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=category,
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=int(image_id == crowd_image and count > 1 and annotations == []),
                    segmentation=[],
                )
            )
        cv2.imwrite(str(folder / 'images' / name), pixels)
        images.append(dict(id=image_id, file_name=name, height=height, width=width))
    categories = [dict(id=i, name=name) for i, name in enumerate(('a', 'b', 'c'), start=1)]
    path = folder / 'annotations.json'
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


@pytest.fixture
def tiny_coco(tmp_path) -> Path:
    """Folder of a COCO data set of 12 images, landscape and portrait, two of them without objects."""
    sizes = [(64, 96), (96, 64), (64, 64)] * 4
    write_coco(tmp_path / 'coco', sizes, [1, 2, 3, 0, 5, 1, 2, 4, 0, 1, 2, 3])
    return tmp_path / 'coco'


def page_data(path: Path) -> dict:
    """What the scripts of a page find in it."""
    _, _, text = path.read_text().partition('<script type="application/json" id="data">')
    return json.loads(text.partition('</script>')[0])


def change_coreset(cfg: Config, **groups) -> None:
    """Change settings of a config's CoresetHook: within its groups, as a config that inherits it would."""
    hook = cfg.default_hooks.coreset
    for name, value in groups.items():
        if isinstance(value, dict) and name not in ('selector', 'scorer'):
            value = {**hook.get(name, {}), **value}
        hook[name] = value


def run_config(name: str, data: Path, work_dir: Path, **changes) -> Config:
    """A shipped detection config on the tiny data set with the narrow model, ready for a Runner on the CPU."""
    cfg = Config.fromfile(REPO / 'configs' / name)
    model = full_precision_config(cfg.model)
    model['backbone'].base_channels = 8
    model['neck'].update(in_channels=[8, 16, 32, 64], out_channels=16)
    model['bbox_head'].update(num_classes=3, in_channels=16, feat_channels=16, stacked_convs=1)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.update(
            data_root=str(data),
            ann_file='annotations.json',
            data_prefix=dict(img='images'),
            metainfo=dict(classes=('a', 'b', 'c')),
        )
        for transform in loader.dataset.pipeline:
            if transform.type == 'Resize':
                transform.scale = (96, 64)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(data / 'annotations.json')
    cfg.load_from = None
    cfg.work_dir = str(work_dir)
    cfg.train_cfg.update(max_epochs=2, val_interval=10)
    # so small a run costs more than it saves
    change_coreset(cfg, schedule=dict(interval=1), cost=dict(force=True))
    cfg.default_hooks.logger.interval = 1
    cfg.train_dataloader.sampler.fraction = 0.5
    cfg.randomness = dict(seed=0)
    cfg.merge_from_dict(changes)
    return cfg


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs a tool in this process; returns its exit status and the last line it printed on stderr."""

    def run(tool, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        try:
            runpy.run_path(str(REPO / 'tools' / tool), run_name='__main__')
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err.strip().splitlines()[-1]
        capsys.readouterr()
        return 0, ''

    return run


@pytest.fixture
def config(tiny_coco, tmp_path):
    """Path of a runnable config on the tiny data set."""
    path = tmp_path / 'config.py'
    run_config('retinanet_r18_w4a4_acs.py', tiny_coco, tmp_path / 'run').dump(path)
    return path
