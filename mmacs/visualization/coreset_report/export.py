"""Chosen or suspected images in the forms of other tools: a list of files, CSV, COCO, FiftyOne."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
from PIL import Image

from mmacs.coreset.ground_truth import GroundTruth
from mmacs.utils.errors import MmacsError, unknown_name
from mmacs.utils.files import write_whole
from mmacs.visualization.coreset_report.contents import Contents
from mmacs.visualization.coreset_report.forms import KINDS, SUFFIXES
from mmacs.visualization.coreset_report.predictions import Predictions, read_predictions
from mmacs.visualization.coreset_report.read import PREDICTIONS, Rounds
from mmacs.visualization.coreset_report.rounds import Record, columns
from mmacs.visualization.coreset_report.shown import content_of, name_of


def export_images(
    rounds: Rounds,
    work_dir: Path,
    form: str,
    kind: str = 'chosen',
    number: Optional[int] = None,
    out: Optional[Path] = None,
) -> Path:
    """Write the chosen or suspected images of a round.

    Args:
        rounds (Rounds): The run.
        work_dir (Path): Its folder.
        form (str): ``'list'`` (a file a line), ``'csv'`` (with all scores), ``'coco'`` (annotations that MMDetection
            trains on as they are: paths are absolute, so that ``data_prefix`` has no part in them) or ``'fiftyone'``
            (``fiftyone.Dataset.from_json`` reads it).
        kind (str): ``'chosen'``, or ``'suspected'``, the images that were trimmed as looking mislabelled.
        number (int, optional): Which round; None is the last.
        out (Path, optional): The file; None is ``<work_dir>/coreset_report.<kind>`` with the suffix of its form.

    Returns:
        Path: The file.

    Raises:
        MmacsError: If there is no such form, kind, round or image, or an image's file can't be found.
    """
    if form not in SUFFIXES:
        raise unknown_name('form of export', form, SUFFIXES)
    count = len(rounds.files)
    number = count - 1 if number is None else number
    if not 0 <= number < count:
        raise MmacsError(f'there is no round {number}: {work_dir} has the rounds 0 to {count - 1}')
    record = {**rounds.read(number), 'image_ids': rounds.last['image_ids']}
    positions = _positions(record, kind)
    truth, contents = rounds.run.truth, rounds.contents
    files = [os.path.abspath(rounds.run.info(position)['img_path']) for position in _with_files(rounds, positions)]
    if form == 'list':
        text = ''.join(f'{file}\n' for file in files)
    elif form == 'csv':
        text = _csv(record, positions, files, rounds)
    elif form == 'coco':
        text = json.dumps(_coco(truth, contents, positions, files))
    else:
        found = read_predictions(work_dir / 'coreset' / PREDICTIONS, len(truth.ends))
        text = json.dumps(_fiftyone(record, positions, files, rounds, found), indent=1)
    out = out or work_dir / f'coreset_report.{kind}{SUFFIXES[form]}'
    write_whole(out, text.encode('utf-8', 'surrogateescape'))
    return out


def _positions(record: Record, kind: str) -> np.ndarray:
    """Returns the images, suspected ones from the most suspicious on."""
    if kind not in KINDS:
        raise unknown_name('kind of images', kind, KINDS)
    if kind == 'chosen':
        return np.flatnonzero(record['chosen'])
    if 'trimmed' not in record:
        raise MmacsError("the run looked for no label errors: coreset=dict(constraints=dict(trim='auto')) does")
    positions = np.flatnonzero(record['trimmed'])
    if not len(positions):
        raise MmacsError('the round trimmed no image: none is suspected')
    return positions[np.argsort(-record['suspicion'][positions], kind='stable')]


def _with_files(rounds: Rounds, positions: np.ndarray) -> List[int]:
    if rounds.run.no_pictures or not all(rounds.run.truth.paths[positions].tolist()):
        raise MmacsError('the images lie in no files of their own: there is nothing that an export could name')
    return positions.tolist()


def _csv(record: Record, positions: np.ndarray, files: List[str], rounds: Rounds) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    scores = _scores(record)
    marks = [name for name in ('trimmed', 'noisy') if name in record]
    writer.writerow(['id', 'file', 'labels', 'chosen', 'rounds_chosen', *scores, *marks])
    for position, file in zip(positions.tolist(), files):
        numbers = [int(record['chosen'][position]), int(rounds.history.times[position])]
        numbers += [_number(values[position]) for values in scores.values()]
        numbers += [int(record[mark][position]) for mark in marks]
        texts = name_of(position, record, rounds.run.truth)['id'], file, content_of(position, rounds.contents)
        writer.writerow([*map(_no_formula, texts), *numbers])
    return buffer.getvalue()


def _no_formula(text: str) -> str:
    """Returns a text from the data as one that spreadsheets don't compute."""
    return f"'{text}" if text.startswith(('=', '+', '-', '@')) else text


def _coco(truth: GroundTruth, contents: Contents, positions: np.ndarray, files: List[str]) -> Dict[str, Any]:
    """Returns boxes as they were trained on, in COCO's form: classes are numbered from 1.

    Images have their own ids, unless these are no numbers or, as where data sets are joined, those of several images.
    """
    if not truth.detection:
        raise MmacsError('COCO is a form for objects with boxes, and these images have labels alone: take csv or list')
    own = truth.ids.dtype.kind in 'iu' and len(np.unique(truth.ids)) == len(truth.ids)
    images, annotations = [], []
    for position, file in zip(positions.tolist(), files):
        number = int(truth.ids[position]) if own else position + 1
        width, height = _size(file)
        images.append({'id': number, 'file_name': file, 'width': width, 'height': height})
        for one in truth.instances(position):
            x1, y1, x2, y2 = (round(end, 3) for end in one['bbox'])
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number,
                    'category_id': one['bbox_label'] + 1,
                    'bbox': [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                    'area': round((x2 - x1) * (y2 - y1), 3),
                    'iscrowd': int(one['ignore_flag']),
                }
            )
    names = [*truth.classes.tolist(), *contents.names[len(truth.classes) :]]  # as a config has them, unshortened
    categories = [{'id': number, 'name': name} for number, name in enumerate(names, start=1)]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def _fiftyone(
    record: Record, positions: np.ndarray, files: List[str], rounds: Rounds, predictions: Predictions
) -> Dict[str, Any]:
    """Returns what ``fiftyone.Dataset.from_json`` reads: scores, ground truth and what the models found."""
    truth, names = rounds.run.truth, rounds.contents.names
    label = _detections if truth.detection else _classification
    scores = _scores(record)
    types = {'filepath': 'StringField', 'tags': 'ListField(fiftyone.core.fields.StringField)'}
    types.update({'coreset_id': 'StringField', 'coreset_rounds': 'IntField'})
    types.update({f'coreset_{name}': 'FloatField' for name in scores})
    fields = {name: f'fiftyone.core.fields.{kind}' for name, kind in types.items()}
    label_type = 'Detections' if truth.detection else 'Classification'
    embedded = f'fiftyone.core.fields.EmbeddedDocumentField(fiftyone.core.labels.{label_type})'
    fields.update({name: embedded for name in ('ground_truth', *predictions)})
    samples = []
    for position, file in zip(positions.tolist(), files):
        size = _size(file)
        rows = _truth_rows(truth, position)
        tags = [name for name in ('chosen', 'trimmed', 'noisy') if name in record and record[name][position]]
        samples.append(
            {
                'filepath': file,
                'tags': tags,
                '_media_type': 'image',
                'coreset_id': name_of(position, record, truth)['id'],
                **{f'coreset_{name}': _number(values[position]) for name, values in scores.items()},
                'coreset_rounds': int(rounds.history.times[position]),
                'ground_truth': label(rows, size, names, False),
                **{
                    name: label(found[position], size, names, True)
                    for name, found in predictions.items()
                    if position in found
                },
            }
        )
    name = f'{rounds.run.about["name"]}-coreset'
    return {
        'name': name,
        'media_type': 'image',
        'num_samples': len(samples),
        'sample_fields': fields,
        'info': {},
        'samples': samples,
    }


def _scores(record: Record) -> Dict[str, np.ndarray]:
    """Returns all that a round says of images in numbers, by column, shape (M,) each."""
    return {**columns(record), **({'suspicion': record['suspicion']} if 'suspicion' in record else {})}


def _number(value: float) -> Optional[float]:
    """Returns a score, None where an image has none."""
    return float(value) if np.isfinite(value) else None


def _truth_rows(truth: GroundTruth, position: int) -> np.ndarray:
    boxes, labels = truth.boxes[truth.part(position)], truth.labels[truth.part(position)]
    return np.column_stack([boxes, labels, np.ones(len(labels))])


def _detections(rows: np.ndarray, size: Tuple[int, int], names: List[str], scored: bool) -> Dict[str, Any]:
    width, height = size
    found = [
        {
            '_cls': 'Detection',
            'label': names[int(label)],
            'bounding_box': [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            **({'confidence': score} if scored else {}),
        }
        for x1, y1, x2, y2, label, score in rows.tolist()
    ]
    return {'_cls': 'Detections', 'detections': found}


def _classification(
    rows: np.ndarray, size: Tuple[int, int], names: List[str], scored: bool
) -> Optional[Dict[str, Any]]:
    if not len(rows):
        return None
    *_, label, score = rows[0].tolist()
    return {'_cls': 'Classification', 'label': names[int(label)], **({'confidence': score} if scored else {})}


def _size(file: str) -> Tuple[int, int]:
    """Returns width and height of an image's file, of which the first bytes are read."""
    try:
        with Image.open(file) as image:
            return image.size
    except OSError as error:
        raise MmacsError(f'cannot read image {file}: {error}') from error
