"""Importance on real COCO images, where they are at hand: it must not follow the number of objects."""

import itertools

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from scipy.stats import spearmanr

from mmacs.coreset import Importance
from mmacs.coreset.data import TrainingData
from mmacs.coreset.scoring.scorers import DenseDetectionScorer
from mmacs.coreset.scoring.scoring_pass import ScoringPass
from mmacs.coreset.selection.normalisation import count_strata
from mmacs.datasets.distinct_images import DistinctImages, scoring_pipeline
from mmacs.quantization import calibrate, quantize_model
from mmacs.teacher.model import make_teacher
from tests.conftest import REPO

FOLDERS = [folder / 'coco_mini' for folder in (REPO / 'data', REPO.parent / 'shared' / 'data')]


@pytest.fixture
def data():
    folder = next((folder for folder in FOLDERS if folder.exists()), None)
    if folder is None:
        pytest.skip('no COCO images here')
    cfg = Config.fromfile(REPO / 'configs' / 'retinanet' / 'retinanet_r18_coco_person.py')
    train, test = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    pipeline = scoring_pipeline(train.pipeline, test.pipeline)
    for transform in pipeline:
        if transform['type'] == 'Resize':
            transform['scale'] = (128, 128)
    train.update(data_root=str(folder), indices=200, pipeline=pipeline)
    del train['metainfo']
    dataset = DATASETS.build(train)
    dataset.full_init()
    return TrainingData.read(DistinctImages(dataset, pipeline))


def test_importance_does_not_follow_the_number_of_objects(data, tiny_retinanet):
    tiny_retinanet.bbox_head.num_classes = 80
    model = quantize_model(MODELS.build(tiny_retinanet), 'w2a2').eval()
    batch = model.data_preprocessor(pseudo_collate([data.images[position] for position in range(8)]))
    with torch.no_grad():
        calibrate(model, [batch], lambda data: model(**data, mode='predict'))
    teacher, scorer, rows = make_teacher(model), DenseDetectionScorer(), {}
    scoring, everything = ScoringPass(data, batch_size=8), np.arange(len(data))

    def keep(positions, found):
        for i, position in enumerate(positions):
            rows[position] = {name: row[i] for name, row in found.items()}

    def read(positions):
        return {name: torch.stack([rows[p][name] for p in positions]) for name in rows[0]}

    names = ['evs', *scorer.weights]
    scoring.teacher_outputs(scorer, teacher, names, everything, keep)
    columns = scoring.scores(scorer, model, everything, names, read)
    counts = data.object_counts
    assert len(data) > 150 and counts.max() > 10
    papers = dict(evs='beta', ds='1 - beta')
    for weights, beta in itertools.product((scorer.weights, papers), (0, 0.5, 1)):
        importance = Importance(weights, normalisation=scorer.normalisation)
        assert abs(spearmanr(importance(columns, beta, count_strata(counts)), counts)[0]) <= 0.1
