"""Pictures of a run: images that a round took or left out, and boxes whose names hide no other."""

import numpy as np
from mmdet.registry import DATASETS
from PIL import Image

from mmacs.datasets.distinct_images import DistinctImages
from mmacs.visualization.pictures import _free_spot, draw_extremes
from tests.test_visualization.test_coreset_report import write_rounds


def test_names_hide_no_other_and_stay_within_the_image():
    rng, taken = np.random.default_rng(0), []
    for _ in range(100):  # more than there is room for
        x, y, width, height = rng.uniform(0, 250), rng.uniform(0, 180), *rng.uniform(5, 80, 2)
        spot = _free_spot((x, y, x + width, y + height), (rng.uniform(20, 60), 13), (300, 225), taken)
        taken += [] if spot is None else [spot]
    assert 40 < len(taken) < 100
    for number, (x1, y1, x2, y2) in enumerate(taken):
        assert 0 <= x1 < x2 <= 300 and 0 <= y1 < y2 <= 225
        assert all(x2 <= a or c <= x1 or y2 <= b or d <= y1 for a, b, c, d in taken[:number])


def test_rows_are_of_chosen_left_out_and_trimmed_images(tiny_coco, tmp_path):
    settings = dict(type='CocoDataset', data_root=str(tiny_coco), ann_file='annotations.json', pipeline=[])
    settings.update(data_prefix=dict(img='images'), metainfo=dict(classes=('<b>$\x1b', 'b', 'c')))
    (tiny_coco / 'annotations.json').write_text(
        (tiny_coco / 'annotations.json').read_text().replace('"name": "a"', r'"name": "<b>$\u001b"')
    )
    images = DistinctImages(DATASETS.build(settings), [])
    heights = []
    for extra in ({}, dict(trimmed=np.arange(12) < 2, suspicion=np.linspace(1, 0, 12, dtype=np.float32))):
        write_rounds(tmp_path / 'run', range(1, 13), count=1, importance=np.linspace(1, 0, 12), **extra)
        draw_extremes(tmp_path / 'run' / 'coreset' / 'round_000.npz', images, tmp_path / 'drawn.png')
        with Image.open(tmp_path / 'drawn.png') as picture:
            assert len(picture.convert('RGB').getcolors(10**6)) > 20
            heights.append(picture.height)
    assert heights[1] > heights[0] + 100  # a row of what looks mislabelled
