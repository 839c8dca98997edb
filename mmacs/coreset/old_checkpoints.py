"""Coresets in checkpoints of mmacs 0.1, in today's form."""

from typing import Any, Dict

import numpy as np
import torch

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
