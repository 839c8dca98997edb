"""Tiles of one shape each: the embedded classification set, without any framework.

As in the scenes, one number in [0, 1] per tile, its difficulty, sets how small, faint, noisy and covered the shape is.
It is kept beside the labels, so that a coreset can be compared with it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np

from mmacs.datasets.drawing import (
    SHAPES,
    TEXTURES,
    between,
    draw_sprite,
    mix,
    object_colours,
    random_colours,
    textures_up_to,
)

VERSION = 1
CLASSES = tuple(SHAPES)
SPLITS = ('train', 'test')
SIDE = 32


@dataclass(frozen=True)
class ClassificationSpec:
    """What decides the content of the embedded classification set, besides ``VERSION``.

    Attributes:
        num_train (int): Number of training tiles.
        num_test (int): Number of test tiles.
        seed (int): Tile i of a split depends on the seed, the split and i alone.
    """

    num_train: int = 4000
    num_test: int = 1000
    seed: int = 0


def draw_tile(rng: np.random.Generator, label: int) -> Tuple[np.ndarray, float]:
    """Draw one tile.

    Args:
        rng (np.random.Generator): The source of randomness.
        label (int): Index of the class in ``CLASSES``.

    Returns:
        Tuple[np.ndarray, float]: The pixels (32, 32, 3), uint8, and the difficulty in [0, 1].
    """
    difficulty = rng.random() ** 2
    textures = textures_up_to(difficulty)
    background = random_colours(rng, between(15, 70, difficulty))
    canvas = mix(TEXTURES[rng.choice(textures)](rng, SIDE, SIDE), background)

    radius = rng.uniform(between(11, 6, difficulty), between(14, 10, difficulty))
    centre = tuple(rng.uniform(radius - 1, SIDE - radius + 1, 2))
    colours = object_colours(rng, background, difficulty)
    draw_sprite(rng, CLASSES[label], canvas.shape[:2], centre, radius, colours, textures).paint(canvas)
    for _ in range(rng.poisson(difficulty)):
        # Shorter than any bar that is the tile's subject.
        colours = object_colours(rng, background, difficulty)
        speck = tuple(rng.uniform(0, SIDE, 2))
        draw_sprite(rng, 'bar', canvas.shape[:2], speck, rng.uniform(3, 6), colours, textures).paint(canvas)
    canvas += rng.normal(0, between(3, 20, difficulty), canvas.shape)
    return np.clip(canvas.round(), 0, 255).astype(np.uint8), difficulty


def write_classification(folder: Path, spec: ClassificationSpec) -> None:
    """Draw both splits into a folder, ``train.npz`` and ``test.npz``, with the classes in equal shares.

    Each holds ``img`` (N, 32, 32, 3) uint8, ``gt_label`` (N,) int64 and ``difficulty`` (N,) float32.

    Args:
        folder (Path): An existing folder.
        spec (ClassificationSpec): What to draw.
    """
    for number, (split, count) in enumerate(zip(SPLITS, (spec.num_train, spec.num_test))):
        images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
        difficulties = np.empty(count, dtype=np.float32)
        labels = np.arange(count) % len(CLASSES)
        for index, label in enumerate(labels):
            rng = np.random.default_rng([spec.seed, number, index])
            images[index], difficulties[index] = draw_tile(rng, label)
        np.savez(folder / f'{split}.npz', img=images, gt_label=labels, difficulty=difficulties)
