"""The record of a round, on disk and in words."""

import json
import os
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from mmacs.coreset.engine import CoresetEngine
from mmacs.coreset.selection.selectors import digest
from mmacs.utils.files import atomic_path

_WORDS = {
    'beta': 'beta {value:.3g}',
    'overlap': 'overlap with the last coreset {value:.1%}',
    'harvest': 'rank correlation of harvested with exact {column} {value:.2f}',
    'proxy': 'rank correlation of {column} with exact scores {value:.2f}',
    'proxy_overlap': 'overlap with the coreset of exact scores {value:.1%}',
    'trimmed': '{value:.0f} images trimmed',
    'noisy_chosen': '{value:.0f} chosen images are noisy',
    'noisy_share': 'which is {value:.1%} of the coreset',
    'noisy_share_of_all': 'against {value:.1%} of all images',
    'trim_precision': '{value:.1%} of the trimmed images are noisy',
    'trim_recall': '{value:.1%} of the noisy images are trimmed',
}


def write_round(path: os.PathLike, engine: CoresetEngine, trained_at: np.ndarray, **facts: Any) -> None:
    """Write what a round knew and chose, as arrays without pickle.

    Args:
        path (os.PathLike): An ``.npz`` file.
        engine (CoresetEngine): After the round's draw. M are its distinct images, N the indices of the data set.
        trained_at (np.ndarray): Round of the last coreset that held each image before this one, -1 for never, shape
            (M,).
        **facts: Numbers to keep beside: ``epoch``, ``iteration``, ``seconds``.

    The file holds besides: ``beta``, ``digest``, ``indices`` (chosen, int64), ``positions`` (which image each index
    shows, int64, shape (N,)), ``image_ids``, ``importance`` (float64), ``score_<column>`` (float32), ``scored_at``
    (int32), with injected label noise ``noisy`` (bool), and with trimming ``suspicion`` (float32) and ``trimmed``
    (bool), all of shape (M,).
    """
    ledger = engine.ledger
    arrays = {f'score_{name}': values for name, values in ledger.scores.items()}
    if engine.noisy.any():
        arrays['noisy'] = engine.noisy
    if engine.policy.trim:
        arrays['suspicion'] = engine.policy.suspicion(ledger).astype(np.float32)
        arrays['trimmed'] = engine.policy.excluded(ledger)
    with atomic_path(path) as temporary:
        np.savez_compressed(
            temporary,
            beta=engine.beta,
            digest=digest(engine.selection.indices),
            indices=engine.selection.indices,
            positions=engine.view.positions,
            image_ids=engine.view.image_ids,
            importance=engine.importance(),
            scored_at=ledger.scored_at,
            trained_at=trained_at,
            **arrays,
            **facts,
        )


def in_words(facts: Mapping[str, float]) -> str:
    """Facts of a round for the log; what has no words of its own is the mean of a column."""
    words = []
    for name, value in facts.items():
        kind, _, column = name.partition('_')
        text = _WORDS.get(name, _WORDS.get(kind, 'mean {name} {value:.4g}'))
        words.append(text.format(name=name, column=column, value=value))
    return ', '.join(words)


def write_summary(path: os.PathLike, summary: Mapping[str, float]) -> None:
    """Write where a run's time went."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + '\n')


def remove_rounds(folder: Path, after: int) -> None:
    """Remove what an earlier run in the same folder wrote of later rounds, and its summary.

    Args:
        folder (Path): Folder of the round files.
        after (int): Number of the last round that stays, -1 for none.
    """
    for path in folder.glob('round_*.npz'):
        if int(path.stem.removeprefix('round_')) > after:
            path.unlink()
    (folder / 'summary.json').unlink(missing_ok=True)
