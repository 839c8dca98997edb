"""Coresets in older checkpoints, in today's form."""

from typing import Any, Dict

import numpy as np
import torch
from numpy.lib.recfunctions import repack_fields

from mmacs.coreset.state import VERSION


def upgraded(state: Dict[str, Any]) -> Dict[str, Any]:
    """Returns what a checkpoint says of a coreset as :class:`mmacs.coreset.state.CoresetState` and its hook write it.

    mmacs 0.1 wrote no version, kept each column as a tensor of its own under ``ledger``, and times under ``pace``.
    """
    if 'ledger' not in state:
        return state
    old, pace = state['ledger'], state['pace']
    names = {name: name.replace('harvested_', 'training_') for name in old if name != 'round'}
    fields = [[new, '<i4' if new in ('scored_at', 'trained_at') else '<f4'] for new in names.values()]
    rows = np.zeros(len(old['scored_at']), dtype=[tuple(pair) for pair in fields])
    for name, new in names.items():
        rows[new] = old[name].cpu().numpy()
    kept = ('beta', 'indices', 'probabilities', 'data', 'seed', 'teacher', 'sweep_start', 'iterator')
    return {
        **{name: state[name] for name in kept if name in state},
        'version': VERSION,
        'fields': fields,
        'rows': torch.from_numpy(rows.view(np.uint8).reshape(len(rows), -1)),
        'round': int(old['round']),
        'trusts_training_scores': state['trusts_harvest'],
        'plan': pace['plan'],
        'next_round': pace['next_round'],
        'selection_seconds': pace['selection_seconds'],
        'training_seconds': pace['training_seconds'],
        'trained_images': pace['trained'],
    }


def without_disagreement(state: Dict[str, Any]) -> Dict[str, Any]:
    """Returns a state without ``ds``, which runs that trim by the teacher alone scored too before ``rs2-trim`` came.

    Args:
        state (Dict[str, Any]): Of :class:`mmacs.coreset.state.CoresetState`.
    """
    kinds = [tuple(pair) for pair in state['fields']]
    kept = [pair for pair in kinds if pair[0] not in ('score_ds', 'training_ds')]
    rows = state['rows'].cpu().contiguous().numpy().view(np.dtype(kinds)).reshape(-1)
    rows = repack_fields(rows[[name for name, _ in kept]])
    return {
        **state,
        'fields': [list(pair) for pair in kept],
        'rows': torch.from_numpy(rows.view(np.uint8).reshape(len(rows), -1)),
    }
