"""Is the coreset in a checkpoint one that a run of mmacs can have written? Asked before anything of it is used."""

import math
import re
from typing import Any, Dict, Optional

import numpy as np
import torch

from mmacs.coreset.budget.prediction import Plan
from mmacs.coreset.data import TrainingData
from mmacs.coreset.old_checkpoints import upgraded
from mmacs.coreset.scoring.proxy import PRECISIONS
from mmacs.coreset.state import VERSION
from mmacs.utils.checks import is_number, is_whole
from mmacs.utils.errors import MmacsError, shortened

_KINDS = {'scored_at': '<i4', 'trained_at': '<i4'}  # of the fields of a row; all others are scores
_SCORE, _TRAINING, _SCORE_KIND = 'score_', 'training_', '<f4'
_HASH = re.compile('[0-9a-f]{16,64}')
_MAX_SEED = 2**64 - 1


def sound_state(state: Any, source: str, data: TrainingData, now: int) -> Dict[str, Any]:
    """Returns the coreset's state of a checkpoint in today's form.

    Args:
        state (Any): What the checkpoint has of :class:`mmacs.CoresetHook`.
        source (str): The checkpoint, for the message.
        data (TrainingData): The run's images.
        now (int): Epoch or iteration at which the run goes on.

    Raises:
        MmacsError: If something is missing, of another type or shape, not finite or out of range, or written by a newer
            version. That it is of another data set, or of other settings, is said where it is taken up.
    """
    if not isinstance(state, dict):
        raise _unsound(source, f'it is {type(state).__name__} in the place of a dict')
    try:
        state = upgraded(state)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unsound(source, 'it cannot be read as one of mmacs 0.1 either') from error
    fault = _fault(state, data, now)
    if fault is not None:
        raise _unsound(source, fault)
    return state


def _unsound(source: str, fault: str) -> MmacsError:
    return MmacsError(
        f'cannot resume from {source}: its coreset is damaged, {fault}; resume from another checkpoint, or start a new '
        'run from its weights with load_from'
    )


def _fault(state: Dict[str, Any], data: TrainingData, now: int) -> Optional[str]:
    """What is wrong, None if nothing is."""
    version = state.get('version')
    if is_whole(version) and version > VERSION:
        return f'or was written by a newer version of mmacs: it has the format {version}, this version reads {VERSION}'
    return (
        _missing(state)
        or _wrong_numbers(state, now)
        or _wrong_rows(state)
        or _wrong_candidates(state)
        or _wrong_selection(state, data)
        or _wrong_iterator(state['iterator'])
    )


def _missing(state: Dict[str, Any]) -> Optional[str]:
    names = ('version', 'fields', 'rows', 'round', 'beta', 'trusts_training_scores', 'plan', 'next_round', 'data')
    names += ('selection_seconds', 'training_seconds', 'trained_images', 'seed', 'sweep_start', 'teacher', 'iterator')
    missing = [name for name in names if name not in state]
    return f'it has no {", ".join(missing)}' if missing else None


def _wrong_numbers(state: Dict[str, Any], now: int) -> Optional[str]:
    def whole(value: Any, low: int, high: float = math.inf) -> bool:
        return is_whole(value) and low <= value <= high

    def number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
        return is_number(value) and low <= value <= high

    def plan(value: Any) -> bool:
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= len(Plan._fields):
            return False
        precision = Plan(*value).precision
        shares = (share for name, share in zip(Plan._fields, value) if name not in ('interval', 'precision'))
        return whole(value[0], 1) and precision in PRECISIONS and all(number(share, 0, 1) for share in shares)

    sound = {
        'version': whole(state['version'], 0),
        'round': whole(state['round'], -1, now),
        'beta': number(state['beta']),
        'trusts_training_scores': isinstance(state['trusts_training_scores'], bool),
        'plan': plan(state['plan']),
        'asked': 'asked' not in state or plan(state['asked']),
        'next_round': whole(state['next_round'], 0),
        'selection_seconds': number(state['selection_seconds'], 0),
        'training_seconds': number(state['training_seconds'], 0),
        'trained_images': whole(state['trained_images'], 0),
        'seed': whole(state['seed'], 0, _MAX_SEED),
        'sweep_start': state['sweep_start'] is None or whole(state['sweep_start'], 0),
        'data': _is_hash(state['data']),
        'teacher': state['teacher'] is None or _is_hash(state['teacher']),
        'contents': state.get('contents') is None or _is_hash(state['contents']),
        'preset': state.get('preset') is None or isinstance(state['preset'], str),
    }
    wrong = next((name for name, is_sound in sound.items() if not is_sound), None)
    return None if wrong is None else f'{wrong} is {_shown(state[wrong])}'


def _wrong_rows(state: Dict[str, Any]) -> Optional[str]:
    fields, rows = state['fields'], state['rows']
    if not isinstance(fields, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in fields
    ):
        return f'fields is {_shown(fields)}'
    kinds = dict(map(tuple, fields))
    wrong = [name for name, kind in kinds.items() if _KINDS.get(name, _SCORE_KIND) != kind]
    if wrong or len(kinds) != len(fields) or not kinds.keys() >= _KINDS.keys():
        return f'fields is {_shown(fields)}'
    width = 4 * len(kinds)
    if not isinstance(rows, torch.Tensor) or rows.dtype != torch.uint8 or rows.ndim != 2 or rows.shape[1] != width:
        return f'rows is {_shown(rows)} in the place of bytes, {width} per image'
    table = rows.cpu().contiguous().numpy().view(np.dtype([tuple(pair) for pair in fields])).reshape(-1)
    for name in _KINDS:
        if len(table) and not (table[name].min() >= -1 and table[name].max() <= state['round']):
            return f'{name} holds rounds from {table[name].min()} to {table[name].max()}, the last is {state["round"]}'
    scored = table['scored_at'] >= 0
    for name in kinds.keys() - _KINDS.keys():
        values, needed = table[name], scored if name.startswith(_SCORE) else np.zeros_like(scored)
        wrong = np.isinf(values) | (np.isnan(values) & needed)
        if wrong.any():
            position = int(np.argmax(wrong))
            return f'image {position} has {values[position]} as its {name.removeprefix(_SCORE)}'
    return None


def _wrong_candidates(state: Dict[str, Any]) -> Optional[str]:
    candidates = state.get('candidates')
    if candidates is None:
        return None
    shape = state['rows'].shape[:1]
    if not isinstance(candidates, torch.Tensor) or candidates.dtype != torch.bool or candidates.shape != shape:
        return f'candidates is {_shown(candidates)} in the place of one bool per image'
    rows = state['rows'].cpu().contiguous().numpy().view(np.dtype([tuple(pair) for pair in state['fields']]))
    unscored = np.flatnonzero(candidates.cpu().numpy() & (rows['scored_at'].reshape(-1) < 0))
    return f'image {unscored[0]} is a candidate without scores' if len(unscored) else None


def _wrong_selection(state: Dict[str, Any], data: TrainingData) -> Optional[str]:
    indices, probabilities = state.get('indices'), state.get('probabilities')
    if indices is None:
        return f'it has no coreset after round {state["round"]}' if state['round'] >= 0 else None
    if not isinstance(indices, torch.Tensor) or indices.ndim != 1 or indices.dtype != torch.int64:
        return f'indices is {_shown(indices)} in the place of whole numbers'
    if len(indices) == 0 or int(indices.min()) < 0:
        return f'its lowest index is {int(indices.min())}' if len(indices) else 'it holds no image'
    num_indices = len(data.positions)
    if state['data'] == data.fingerprint and int(indices.max()) >= num_indices:
        return f'it holds index {int(indices.max())}, and the data set has {num_indices}, from 0 on'
    if len(indices.unique()) != len(indices):
        return 'it holds an index twice'
    shown = state.get('shown')
    if shown is not None:
        if not isinstance(shown, torch.Tensor) or shown.dtype != torch.bool or shown.ndim != 1:
            return f'shown is {_shown(shown)} in the place of one bool for each index'
        if state['data'] == data.fingerprint and len(shown) != num_indices:
            return f'shown is of {len(shown)} indices, and the data set has {num_indices}'
    if probabilities is not None:
        if not isinstance(probabilities, torch.Tensor) or probabilities.shape != indices.shape:
            return f'probabilities is {_shown(probabilities)}'
        if not probabilities.is_floating_point() or not bool(((probabilities > 0) & (probabilities <= 1)).all()):
            return 'inclusion probabilities are not above 0 and at most 1'
    return None


def _wrong_iterator(iterator: Any) -> Optional[str]:
    if iterator is None:
        return None
    if not isinstance(iterator, dict):
        return f'iterator is {_shown(iterator)}'
    for name in ('passes', 'taken'):
        if not is_whole(iterator.get(name)) or iterator[name] < 0:
            return f'{name} is {_shown(iterator.get(name))}'
    return None


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, torch.Tensor):
        return f'a tensor of {value.dtype} with shape {tuple(value.shape)}'
    return shortened(value, 60)
