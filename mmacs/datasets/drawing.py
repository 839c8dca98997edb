"""Shapes, textures and colours: what the embedded pictures are made of.

Everything is a function of its arguments and of the ``numpy.random.Generator`` it is handed.
"""

from dataclasses import dataclass
from typing import Callable, Dict, List, Sequence, Tuple

import cv2
import numpy as np

MOST_TURNED = 0.4  # radians


def _regular_polygon(x: np.ndarray, y: np.ndarray, corners: int) -> np.ndarray:
    angles = np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    sides = [np.cos(angle) * x + np.sin(angle) * y for angle in angles]
    return np.max(sides, axis=0) - np.cos(np.pi / corners)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.3)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Folds the plane into half of one of five points; its edge runs from the tip to the inner corner."""
    angle = np.abs((np.arctan2(x, -y) % (2 * np.pi / 5)) - np.pi / 5)
    radius = np.hypot(x, y)
    x, y = radius * np.cos(np.pi / 5 - angle), radius * np.sin(np.pi / 5 - angle)
    inner_x, inner_y = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
    return (inner_y * (x - 1) + (1 - inner_x) * y) / np.hypot(inner_y, 1 - inner_x)


# Signed distance to the outline, negative inside, of a shape that fits into the unit circle.
SHAPES: Dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    'disk': lambda x, y: np.hypot(x, y) - 1,
    'square': lambda x, y: _regular_polygon(x, y, 4),
    'triangle': lambda x, y: _regular_polygon(x, y, 3),
    'ring': lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    'cross': _cross,
    'star': _star,
    'crescent': lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.8 - np.hypot(x - 0.5, y)),
    'bar': lambda x, y: np.maximum(np.abs(x) - 0.97, np.abs(y) - 0.2),
    'frame': lambda x, y: np.abs(_regular_polygon(x, y, 4) + 0.15) - 0.15,
    'hexagon': lambda x, y: _regular_polygon(x, y, 6),
}


def _plain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width))


def _ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Returns a coordinate in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    return np.cos(angle) * x + np.sin(angle) * y


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    ramp = _ramp(rng, height, width)
    return (ramp - ramp.min()) / max(np.ptp(ramp), 1)


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    period = rng.uniform(4, 16)
    return 0.5 + 0.5 * np.sin(_ramp(rng, height, width) * 2 * np.pi / period)


def _checker(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cell = rng.integers(3, 12)
    y, x = np.mgrid[:height, :width] // cell
    return (x + y) % 2 * 1.0


def _blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    cell = rng.uniform(8, 24)
    coarse = rng.random((int(height / cell) + 3, int(width / cell) + 3))
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _speckle(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return rng.random((height, width))


# Maps a generator and a size to a field (height, width) in [0, 1] that mixes two colours. From plain to busy.
TEXTURES: Dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    'plain': _plain,
    'gradient': _gradient,
    'blobs': _blobs,
    'stripes': _stripes,
    'checker': _checker,
    'speckle': _speckle,
}


def random_colour(rng: np.random.Generator, references: np.ndarray, contrast: Tuple[float, float]) -> np.ndarray:
    """Draw a colour at a given distance from every reference.

    Args:
        rng (np.random.Generator): The source of randomness.
        references (np.ndarray): Colours (K, 3) in 0..255 to keep away from.
        contrast (Tuple[float, float]): The least and the greatest Euclidean distance to the closest reference.

    Returns:
        np.ndarray: A colour (3,) in 0..255; the closest of 64 trials where none has the contrast asked for.
    """
    trials = rng.uniform(10, 245, (64, 3))
    distance = np.linalg.norm(trials[:, None] - references, axis=-1).min(axis=1)
    low, high = contrast
    return trials[np.argmin(np.maximum(0, np.maximum(low - distance, distance - high)))]


def random_colours(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """Draw two colours (2, 3) in 0..255 for a background, 0.6 to 1 times ``amplitude`` apart."""
    first = rng.uniform(10, 245, 3)
    return np.stack([first, random_colour(rng, first[None], (0.6 * amplitude, amplitude))])


def object_colours(rng: np.random.Generator, background: np.ndarray, difficulty: float) -> np.ndarray:
    """Draw two colours (2, 3) in 0..255 for an object; the first stands out from the background's two (2, 3)."""
    references = np.stack([background[0], background.mean(axis=0), background[1]])
    contrast = between(110, 45, difficulty), between(300, 110, difficulty)
    first = random_colour(rng, references, contrast)
    return np.stack([first, random_colour(rng, first[None], (20, 60))])


def between(easy: float, hard: float, difficulty: float) -> float:
    """Interpolate from ``easy`` at difficulty 0 to ``hard`` at difficulty 1."""
    return easy + difficulty * (hard - easy)


def textures_up_to(difficulty: float) -> List[str]:
    """Returns the names of the plainest textures at difficulty 0, of all at 1."""
    return list(TEXTURES)[: 2 + round(difficulty * (len(TEXTURES) - 2))]


def mix(field: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Blend two colours (2, 3) by a field (H, W) in [0, 1]; returns (H, W, 3)."""
    return colours[0] + field[..., None] * (colours[1] - colours[0])


@dataclass(frozen=True)
class Sprite:
    """A shape at its place on the canvas.

    Attributes:
        shape (str): A name in ``SHAPES``.
        window (Tuple[slice, slice]): The rows and columns of the canvas that it touches.
        coverage (np.ndarray): Share (h, w) of each pixel of the window that the shape covers, in [0, 1].
        pixels (np.ndarray): Its colours (h, w, 3) in 0..255.
    """

    shape: str
    window: Tuple[slice, slice]
    coverage: np.ndarray
    pixels: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """Pixels (h, w) of the window that belong to the shape, as bool."""
        return self.coverage >= 0.5

    def paint(self, canvas: np.ndarray) -> None:
        """Blend the shape over a canvas (H, W, 3) in place."""
        canvas[self.window] += self.coverage[..., None] * (self.pixels - canvas[self.window])


def draw_sprite(
    rng: np.random.Generator,
    shape: str,
    canvas_size: Tuple[int, int],
    centre: Tuple[float, float],
    radius: float,
    colours: np.ndarray,
    textures: Sequence[str],
) -> Sprite:
    """Draw a shape turned by up to ``MOST_TURNED``, squeezed by up to a quarter, half of the time with an outline.

    Args:
        rng (np.random.Generator): The source of randomness.
        shape (str): A name in ``SHAPES``.
        canvas_size (Tuple[int, int]): Height and width of the canvas in pixels.
        centre (Tuple[float, float]): Row and column of the centre, on the canvas.
        radius (float): Radius in pixels of the circle around the shape.
        colours (np.ndarray): The two colours (2, 3) in 0..255 of its texture.
        textures (Sequence[str]): Names in ``TEXTURES`` to choose from.

    Returns:
        Sprite: The part of the shape that lies on the canvas.
    """
    window = tuple(
        slice(max(0, int(middle - radius) - 1), min(size, int(middle + radius) + 3))
        for middle, size in zip(centre, canvas_size)
    )
    y, x = np.mgrid[window].astype(np.float64)
    y, x = (y - centre[0]) / radius, (x - centre[1]) / radius
    angle, squeeze = rng.uniform(-MOST_TURNED, MOST_TURNED), rng.uniform(0.75, 1)
    x, y = np.cos(angle) * x + np.sin(angle) * y, (np.cos(angle) * y - np.sin(angle) * x) / squeeze
    inside = -radius * squeeze * SHAPES[shape](x, y)

    pixels = mix(TEXTURES[rng.choice(textures)](rng, *inside.shape), colours)
    if rng.random() < 0.5:
        near_edge = np.clip(max(1, 0.12 * radius) - inside + 0.5, 0, 1)
        pixels = pixels * (1 - rng.uniform(0.4, 0.6) * near_edge[..., None])
    return Sprite(shape, window, np.clip(inside + 0.5, 0, 1), pixels)
