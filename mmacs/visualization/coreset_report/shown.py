"""The images that a report shows: which of them, how they look, and what each round knew of them."""

import base64
import io
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np
from PIL import Image

from mmacs.coreset.ground_truth import GroundTruth
from mmacs.utils.errors import printable
from mmacs.visualization.coreset_report.contents import Contents
from mmacs.visualization.coreset_report.predictions import Predictions
from mmacs.visualization.coreset_report.rounds import History, Record, columns, shares_below
from mmacs.visualization.pictures import read_image

_SIDE = 512  # pixels, the longer side of a picture
_QUALITY = 70
_MAX_ROUNDS = 40  # on the slider
_MAX_SCORES = 5  # classes of a classifier that are told


def choose_shown(record: Record, count: int) -> np.ndarray:
    """Returns the images that a report shows: all, or the ends of what the round knew and a sample between them.

    Args:
        record (Record): The last round.
        count (int): How many images.

    Returns:
        np.ndarray: Positions, int64, ascending, shape (min(count, M),): of highest and of lowest importance, of highest
        suspicion where there is any, and the others evenly spread over the order of importance.
    """
    by_importance = np.argsort(
        -record['importance'], kind='stable'
    )  # what has none, since it was no candidate, is last
    if count >= len(by_importance):
        return np.arange(len(by_importance))
    part = max(1, count // 4)
    ranked = by_importance[np.isfinite(record['importance'][by_importance])]
    wanted = [ranked[:part], ranked[::-1][:part]]
    if 'suspicion' in record:
        wanted.append(_most_suspicious(record)[:part])
    found = list(dict.fromkeys(np.concatenate(wanted).tolist()))[:count]
    rest = by_importance[~np.isin(by_importance, found)]
    spread = np.linspace(0, len(rest) - 1, count - len(found)).round().astype(int)
    return np.sort(np.concatenate([np.asarray(found, dtype=np.int64), rest[spread]]))


def _most_suspicious(record: Record) -> np.ndarray:
    """Returns the images that could be suspected, the most suspicious first."""
    order = np.argsort(-record['suspicion'], kind='stable')
    return order[np.isfinite(record['suspicion'][order])]


class Course(NamedTuple):
    """What rounds knew of the images that are shown.

    Attributes:
        rounds (List[int]): Numbers of rounds, ascending; at most 40, evenly spread.
        columns (List[str]): Names of scores.
        chosen (np.ndarray): bool, shape (R, K): rounds, images.
        scores (np.ndarray): float64, shape (R, K, C).
        shares (np.ndarray): Share of all images that score less, float64, shape (R, K, C).
    """

    rounds: List[int]
    columns: List[str]
    chosen: np.ndarray
    scores: np.ndarray
    shares: np.ndarray


def follow(read: Callable[[int], Record], count: int, last: Record, positions: np.ndarray) -> Course:
    """Go through the rounds once more, and keep what they say of the images that are shown.

    Args:
        read (Callable[[int], Record]): Returns a round by its number.
        count (int): Number of rounds.
        last (Record): The last one, whose scores are told; where an earlier one lacks one, it is NaN.
        positions (np.ndarray): The images, shape (K,).
    """
    rounds = np.unique(np.linspace(0, count - 1, min(count, _MAX_ROUNDS)).round().astype(int)).tolist()
    names = [*columns(last)]
    shape = len(rounds), len(positions), len(names)
    course = Course(rounds, names, np.zeros(shape[:2], dtype=bool), np.full(shape, np.nan), np.full(shape, np.nan))
    for place, number in enumerate(rounds):
        record = last if number == count - 1 else read(number)
        course.chosen[place] = record['chosen'][positions]
        for column, values in columns(record).items():
            if column in names:
                at = names.index(column)
                course.scores[place, :, at] = values[positions]
                course.shares[place, :, at] = shares_below(values)[positions]
    return course


def picture(pixels: np.ndarray) -> bytes:
    """Returns an image as a small WebP: uint8, shape (H, W, 3) in RGB or (H, W) in grey."""
    image = Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., :3]))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.convert('RGB').save(buffer, 'webp', quality=_QUALITY)
    return buffer.getvalue()


def describe_images(
    positions: np.ndarray,
    last: Record,
    course: Course,
    history: History,
    truth: GroundTruth,
    contents: Contents,
    info: Optional[Callable[[int], Dict[str, Any]]],
    predictions: Predictions,
) -> List[Dict[str, Any]]:
    """Returns what the page's script needs of each image that is shown, as values that JSON can hold.

    Args:
        positions (np.ndarray): The images.
        last (Record): The last round, with the images' ids.
        course (Course): What rounds knew of them.
        history (History): How often each image was chosen.
        truth (GroundTruth): What the annotations say.
        contents (Contents): The same in words.
        info (Callable[[int], dict], optional): Returns what the data set knows of an image, as MMEngine's
            ``get_data_info``; None where there are no pictures.
        predictions (Predictions): What the models find in them, perhaps nothing.

    Raises:
        MmacsError: If an image cannot be read.
    """
    return [
        {
            **name_of(position, last, truth),
            **_pixels(info, position),
            'content': content_of(position, contents),
            'truth': _truth(truth, position),
            'found': {
                name: _found(found[position], bool(truth.detection))
                for name, found in predictions.items()
                if position in found
            },
            'chosen': course.chosen[:, place].tolist(),
            'scores': [_numbers(row) for row in course.scores[:, place]],
            'shares': [_numbers(row) for row in course.shares[:, place]],
            'times': int(history.times[position]),
            'objects': int(contents.counts[position]),
            **{name: bool(last[name][position]) for name in ('trimmed', 'noisy') if name in last},
            **({'suspicion': _number(last['suspicion'][position])} if 'suspicion' in last else {}),
        }
        for place, position in enumerate(positions.tolist())
    ]


def name_of(position: int, record: Record, truth: GroundTruth) -> Dict[str, str]:
    """Returns id and file name of an image; the name is its id where it lies in no file of its own."""
    identity = printable(record['image_ids'][position], 200)
    file = Path(bytes(truth.paths[position]).decode(errors='replace')).name
    return {'id': identity, 'name': printable(file or identity, 200)}


def content_of(position: int, contents: Contents) -> str:
    """Returns the classes in an image with their numbers, such as ``'2 dog, 1 cat'``."""
    start, end = np.searchsorted(contents.image, (position, position + 1))
    labels, counts = np.unique(contents.label[start:end], return_counts=True)
    names = [
        f'{count} {contents.names[label]}' if contents.detection else contents.names[label]
        for label, count in zip(labels.tolist(), counts.tolist())
    ]
    return ', '.join(names) or 'no objects'


def _pixels(info: Optional[Callable[[int], Dict[str, Any]]], position: int) -> Dict[str, Any]:
    if info is None:
        return {}
    pixels = read_image(info(position))
    content = base64.b64encode(picture(pixels)).decode()
    return {'width': pixels.shape[1], 'height': pixels.shape[0], 'picture': f'data:image/webp;base64,{content}'}


def _truth(truth: GroundTruth, position: int) -> List[Any]:
    """Objects as x1, y1, x2, y2, class, ignored; or the labels of an image."""
    if truth.detection:
        return [
            [*(round(end, 1) for end in one['bbox']), one['bbox_label'], int(one['ignore_flag'])]
            for one in truth.instances(position)
        ]
    return truth.labels[truth.part(position)].tolist()


def _found(found: np.ndarray, detection: bool) -> List[List[float]]:
    """Detections as x1, y1, x2, y2, class, score; of a classifier class, score."""
    if not detection:
        return [[int(label), round(score, 3)] for label, score in found[:_MAX_SCORES, 4:].tolist()]
    return [[*(round(end, 1) for end in box), int(label), round(score, 3)] for *box, label, score in found.tolist()]


def _numbers(values: np.ndarray) -> List[Optional[float]]:
    return [_number(value) for value in values]


def _number(value: float) -> Optional[float]:
    """A number of four digits, which JSON can hold; None for NaN and infinities."""
    return float(f'{value:.4g}') if np.isfinite(value) else None


def suspects(record: Record, truth: GroundTruth, contents: Contents, count: int) -> List[Dict[str, Any]]:
    """Returns the images that look mislabelled in a round, the most suspicious first, at most ``count`` of them."""
    order = _most_suspicious(record)[:count]
    return [
        {
            'rank': rank,
            'position': position,
            **name_of(position, record, truth),
            'content': content_of(position, contents),
            'suspicion': record['suspicion'][position],
            'scores': [values[position] for values in columns(record).values()],
            'trimmed': bool(record['trimmed'][position]),
            'chosen': bool(record['chosen'][position]),
            'noisy': bool(record['noisy'][position]) if 'noisy' in record else None,
        }
        for rank, position in enumerate(order.tolist(), start=1)
    ]
