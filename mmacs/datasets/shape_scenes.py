"""Scenes of shapes with COCO annotations: the embedded detection set, without any framework.

One number in [0, 1] per image, its difficulty, sets how many objects there are, how small, how faint, how much they
overlap and how busy the background is. It is drawn as the square of a uniform number, so easy images abound, and it is
kept in the annotation file's image records, so that a coreset can be compared with it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np

from mmacs.datasets.drawing import (
    TEXTURES,
    Sprite,
    between,
    draw_sprite,
    mix,
    object_colours,
    random_colours,
    textures_up_to,
)

VERSION = 1
CLASSES = ('disk', 'square', 'triangle', 'ring', 'cross')
DISTRACTORS = ('star', 'crescent', 'bar')
SPLITS = ('train', 'val')

EMPTY_SHARE = 0.05
CROWD_SHARE = 0.15  # of the hardest images; it falls to 0 for the easiest
SHORT_SIDES = (0.6, 0.7, 0.8)  # in long sides: 96, 112 and 128 pixels by default
LEAST_VISIBLE = 0.45  # an object of which less can be seen is taken out of the scene


@dataclass(frozen=True)
class DetectionSpec:
    """What decides the content of the embedded detection set, besides ``VERSION``.

    Attributes:
        num_train (int): Number of training images.
        num_val (int): Number of validation images.
        long_side (int): Length in pixels of each image's longer side.
        seed (int): Image i of a split depends on the seed, the split, i and ``long_side`` alone.
    """

    num_train: int = 480
    num_val: int = 120
    long_side: int = 160
    seed: int = 0


@dataclass(frozen=True)
class SceneObject:
    """What an annotation says of one object, or of one crowd.

    Attributes:
        shape (str): Class name.
        mask (np.ndarray): Its visible pixels (H, W), as bool.
        is_crowd (bool): Whether it is a crowd: many overlapping objects of one class.
    """

    shape: str
    mask: np.ndarray
    is_crowd: bool


@dataclass(frozen=True)
class Scene:
    """One image and what can be seen on it.

    Attributes:
        image (np.ndarray): Pixels (H, W, 3), uint8.
        objects (List[SceneObject]): Its objects, from the front to the back, the crowd last.
        difficulty (float): In [0, 1].
    """

    image: np.ndarray
    objects: List[SceneObject]
    difficulty: float


def draw_scene(rng: np.random.Generator, long_side: int) -> Scene:
    """Draw one scene.

    Args:
        rng (np.random.Generator): The source of randomness.
        long_side (int): Length of the longer side in pixels.

    Returns:
        Scene: The scene, landscape or portrait with equal chance.
    """
    difficulty = rng.random() ** 2
    size = (round(long_side * rng.choice(SHORT_SIDES)), long_side)
    if rng.random() < 0.5:
        size = size[::-1]

    background = random_colours(rng, between(15, 70, difficulty))
    canvas = mix(TEXTURES[rng.choice(textures_up_to(difficulty))](rng, *size), background)

    sprites = _scatter(rng, size, background, difficulty)
    crowd = _crowd(rng, size, background, difficulty) if rng.random() < CROWD_SHARE * difficulty else []
    sprites, objects = see(size, sprites, crowd)
    for sprite in reversed(sprites):
        sprite.paint(canvas)
    canvas += rng.normal(0, between(2, 12, difficulty), canvas.shape)
    return Scene(np.clip(canvas.round(), 0, 255).astype(np.uint8), objects, difficulty)


def _sprite(
    rng: np.random.Generator,
    shape: str,
    size: Tuple[int, int],
    centre: Tuple[float, float],
    radius: float,
    background: np.ndarray,
    difficulty: float,
) -> Sprite:
    colours = object_colours(rng, background, difficulty)
    return draw_sprite(rng, shape, size, centre, radius, colours, textures_up_to(difficulty))


def _scatter(
    rng: np.random.Generator, size: Tuple[int, int], background: np.ndarray, difficulty: float
) -> List[Sprite]:
    """Objects and distractors all over the canvas, in random order."""
    if rng.random() < EMPTY_SHARE:
        shapes = []
    else:
        count = rng.integers(round(between(1, 3, difficulty)), round(between(2, 6, difficulty)), endpoint=True)
        shapes = list(rng.choice(CLASSES, count))
    shapes += list(rng.choice(DISTRACTORS, rng.poisson(2 * difficulty)))
    rng.shuffle(shapes)

    least, greatest = np.array([between(0.18, 0.06, difficulty), between(0.36, 0.22, difficulty)]) * min(size)
    sprites = []
    for shape in shapes:
        radius = np.exp(rng.uniform(np.log(least), np.log(greatest)))
        centre = tuple(rng.uniform(0.7 * radius, side - 0.7 * radius) for side in size)
        sprites.append(_sprite(rng, str(shape), size, centre, radius, background, difficulty))
    return sprites


def _crowd(rng: np.random.Generator, size: Tuple[int, int], background: np.ndarray, difficulty: float) -> List[Sprite]:
    """Returns a dozen small objects of one class, thrown over one another."""
    shape = str(rng.choice(CLASSES))
    radius = 0.06 * min(size)
    middle = np.array([rng.uniform(5 * radius, side - 5 * radius) for side in size])
    spread = rng.uniform(-3.5, 3.5, (rng.integers(10, 16), 2)) * radius
    return [
        _sprite(rng, shape, size, tuple(middle + offset), radius * rng.uniform(0.8, 1.2), background, difficulty)
        for offset in spread
    ]


def see(size: Tuple[int, int], sprites: List[Sprite], crowd: List[Sprite]) -> Tuple[List[Sprite], List[SceneObject]]:
    """Find what can be seen of each sprite.

    A sprite that is mostly covered leaves the scene, so that no object can be seen that has no box.

    Args:
        size (Tuple[int, int]): Height and width of the canvas.
        sprites (List[Sprite]): Objects and distractors, from the front to the back.
        crowd (List[Sprite]): The members of a crowd behind them all; may be empty.

    Returns:
        Tuple[List[Sprite], List[SceneObject]]: The sprites to paint, and the objects to annotate.
    """
    covered = np.zeros(size, dtype=bool)
    seen, objects = [], []
    for sprite in sprites:
        visible = sprite.mask & ~covered[sprite.window]
        if visible.sum() < LEAST_VISIBLE * sprite.mask.sum():
            continue
        covered[sprite.window] |= sprite.mask
        seen.append(sprite)
        if sprite.shape in CLASSES:
            mask = np.zeros(size, dtype=bool)
            mask[sprite.window] = visible
            objects.append(SceneObject(sprite.shape, mask, is_crowd=False))

    mask = np.zeros(size, dtype=bool)
    for sprite in crowd:
        mask[sprite.window] |= sprite.mask
    mask &= ~covered
    if mask.any():
        objects.append(SceneObject(crowd[0].shape, mask, is_crowd=True))
    return seen + crowd, objects


def to_rle(mask: np.ndarray) -> Dict[str, List[int]]:
    """Encode a mask (H, W) as COCO's uncompressed run lengths, counted down the columns, background first."""
    flat = np.concatenate([[0], mask.ravel(order='F'), [0]]).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {'counts': counts.tolist(), 'size': list(mask.shape)}


def to_box(mask: np.ndarray) -> List[int]:
    """Returns the tight box ``[x, y, width, height]`` in pixels around a mask (H, W) that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = columns[0], rows[0]
    return [int(x), int(y), int(columns[-1] - x + 1), int(rows[-1] - y + 1)]


def write_detection(folder: Path, spec: DetectionSpec) -> None:
    """Draw both splits into a folder: ``train/``, ``val/`` and ``annotations/instances_{train,val}.json``.

    Args:
        folder (Path): An existing empty folder.
        spec (DetectionSpec): What to draw.
    """
    (folder / 'annotations').mkdir()
    for number, (split, count) in enumerate(zip(SPLITS, (spec.num_train, spec.num_val))):
        (folder / split).mkdir()
        images: List[Dict[str, Any]] = []
        annotations: List[Dict[str, Any]] = []
        for index in range(count):
            scene = draw_scene(np.random.default_rng([spec.seed, number, index]), spec.long_side)
            name = f'{index:06d}.png'
            png = cv2.imencode('.png', scene.image)[1].tobytes()  # imwrite is silent where a disk is full
            (folder / split / name).write_bytes(png)
            height, width = scene.image.shape[:2]
            image_id = index + 1
            images.append(
                {
                    'id': image_id,
                    'file_name': name,
                    'width': width,
                    'height': height,
                    'difficulty': round(scene.difficulty, 4),
                }
            )
            for item in scene.objects:
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image_id,
                        'category_id': CLASSES.index(item.shape) + 1,
                        'bbox': to_box(item.mask),
                        'area': int(item.mask.sum()),
                        'iscrowd': int(item.is_crowd),
                        'segmentation': to_rle(item.mask),
                    }
                )
        coco = {
            'info': {'description': 'mmacs embedded detection set', 'version': str(VERSION), **asdict(spec)},
            'licenses': [],
            'images': images,
            'annotations': annotations,
            'categories': [{'id': i, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(CLASSES, 1)],
        }
        (folder / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))
