"""The record of a round, on disk and in words."""

import json
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any, Dict, Mapping

import numpy as np

from mmacs.coreset.engine import CoresetEngine, Round
from mmacs.coreset.selection.selectors import digest
from mmacs.utils.files import write_whole, writing

_ROUND = re.compile(r'round_(\d+)\.npz')
_ELSEWHERE = 'choose another --work-dir'
_WORDS = {
    'candidates': 'candidates {value:.0f}',
    'beta': 'beta {value:.3g} (weight of error in importance)',
    'overlap': 'overlap with the last coreset {value:.1%}',
    'harvest': 'rank correlation of harvested with exact {column} {value:.2f}',
    'proxy': 'rank correlation of {column} with exact scores {value:.2f}',
    'proxy_overlap': 'overlap with the coreset of exact scores {value:.1%}',
    'trimmed': '{value:.0f} images trimmed',
    'wrong_share': 'since {value:.1%} of the labels look wrong by the errors of the teacher',
    'above_floor': '{value:.0f} images above the floor',
    'filled_up': 'too few, so that chance chose {value:.0f} others besides',
    'noisy_chosen': '{value:.0f} chosen images are noisy',
    'noisy_share': 'which is {value:.1%} of the coreset',
    'noisy_share_of_all': 'against {value:.1%} of all images',
    'trim_precision': '{value:.1%} of the trimmed images are noisy',
    'trim_recall': '{value:.1%} of the noisy images are trimmed',
}


def write_round(path: os.PathLike, engine: CoresetEngine, held: Round, **facts: Any) -> None:
    """Writes what a round knew and chose, as arrays without pickle; and once ``images.npz`` beside it.

    Args:
        path (os.PathLike): An ``.npz`` file.
        engine (CoresetEngine): After the round's draw. M are its distinct images, N the indices of the data set.
        held (Round): What the round found.
        **facts: Numbers to keep beside: ``epoch``, ``iteration``.

    The file holds besides: ``seconds``, ``beta``, ``digest``, ``indices`` (chosen, int64), ``positions`` (which image
    each index shows, int64, shape (N,)), ``importance`` (float64), ``score_<column>`` (float32), ``scored_at``
    (int32), with injected label noise ``noisy`` (bool), with trimming ``suspicion`` (float32) and ``trimmed`` (bool),
    and where not all images were to choose among ``candidates`` (bool), all of shape (M,). Other images then have NaN
    as their importance and suspicion, and as scores where they were never scored. ``images.npz`` holds the
    ``image_ids``, shape (M,).
    """
    state, data, policy = engine.state, engine.data, engine.settings.policy
    arrays = {f'score_{name}': values for name, values in state.scores.items()}
    if data.noisy.any():
        arrays['noisy'] = data.noisy
    if policy.constraints.trim:
        arrays['suspicion'] = engine.suspicion().astype(np.float32)
        arrays['trimmed'] = engine.excluded()
    if state.candidates is not None:
        arrays['candidates'] = state.candidates
    _write_arrays(
        path,
        seconds=held.facts['seconds'],
        beta=state.beta,
        digest=digest(state.selection.indices),
        indices=state.selection.indices,
        positions=data.positions,
        importance=engine.importance(),
        scored_at=state.rows['scored_at'],
        trained_at=held.trained_at,
        **arrays,
        **facts,
    )
    images = Path(path).with_name('images.npz')
    if not images.exists():
        _write_arrays(images, image_ids=data.image_ids)


def _write_arrays(path: os.PathLike, **arrays: Any) -> None:
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getbuffer(), _ELSEWHERE)


def in_words(engine: CoresetEngine, held: Round, now: int, unit: str, visit: str) -> str:
    """Returns the sentence for the log.

    Args:
        engine (CoresetEngine): After the round's draw.
        held (Round): What the round found.
        now (int): Epoch or iteration.
        unit (str): ``'epoch'`` or ``'iteration'``.
        visit (str): What shows the coreset once, ``'epoch'`` or ``'pass'``.
    """
    until, chosen = engine.stays_until(), engine.state.selection.indices
    span = f'{unit}s {now + 1} to {until}' if until > now + 1 else f'{unit} {until}'
    redrawn = f', drawn anew in each {visit}' if engine.redraws else ''
    said = ('fraction', 'images', 'scored', 'seconds')
    details = _in_words({name: value for name, value in held.facts.items() if name not in said})
    return (
        f'Coreset for {span}: {len(chosen)} of {len(engine.data.positions)} images ({held.facts["fraction"]:.1%})'
        f'{redrawn}, {held.facts["scored"]} scored in {held.facts["seconds"]:.1f} s, {details}, '
        f'digest {digest(chosen)} (of the choice: the same where the same images are chosen)'
    )


def _in_words(facts: Mapping[str, float]) -> str:
    """Facts of a round; what has no words of its own is the mean of a column."""
    words = []
    for name, value in facts.items():
        kind, _, column = name.partition('_')
        text = _WORDS.get(name, _WORDS.get(kind, 'mean {name} {value:.4g}'))
        words.append(text.format(name=name, column=column, value=value))
    return ', '.join(words)


def write_summary(path: os.PathLike, summary: Mapping[str, float]) -> None:
    """Write where a run's time went."""
    write_whole(path, (json.dumps(summary, indent=2) + '\n').encode(), _ELSEWHERE)


def round_files(folder: Path) -> Dict[int, Path]:
    """Returns the files of selection rounds in a folder by number, ascending; other files are none of them."""
    found = {path: _ROUND.fullmatch(path.name) for path in folder.glob('round_*.npz')}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def remove_rounds(folder: Path, after: int) -> None:
    """Remove what an earlier run in the same folder wrote of later rounds and at its end, and, with all, its images.

    Args:
        folder (Path): Folder of the round files.
        after (int): Number of the last round that stays, -1 for none.

    Raises:
        MmacsError: If they can't be removed, or the folder is a file.
    """
    with writing(folder, elsewhere=_ELSEWHERE):
        for number, path in round_files(folder).items():
            if number > after:
                path.unlink()
        for name in ('summary.json', 'predictions.npz'):  # of a run's end
            (folder / name).unlink(missing_ok=True)
        if after < 0:
            (folder / 'images.npz').unlink(missing_ok=True)
