"""Ways to choose images, by name: what ``CoresetHook(preset=...)`` stands for.

A preset is a dict of the hook's groups, which the config may change. Those that score nothing have no groups: the hook
then only tells the sampler.
"""

from copy import deepcopy
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from mmacs.coreset.scoring.scorers import ClassificationScorer
from mmacs.coreset.scoring.scorers.base import CLASSIFIER, DETECTOR
from mmacs.coreset.scoring.scorers.detection import DetectionScorer
from mmacs.utils.errors import MmacsError, shortened, unknown_name

Groups = Dict[str, Any]

DEFAULT = 'mmacs'
GROUPS = ('importance', 'selector', 'constraints', 'schedule', 'cost', 'unbiased')


class Preset(NamedTuple):
    """What a name stands for."""

    says: str  # what is chosen, for the log
    classifier: Optional[Groups]  # None: not for classifiers
    detector: Optional[Groups]
    redraw: Optional[bool] = None  # of the sampler, where nothing is scored


def _by(weights: Mapping[str, Any], how: Optional[str] = None, **more: Any) -> Groups:
    """Importance of a mixture of columns; ``how`` is its normalisation, None that of the scorer."""
    return dict(importance=dict(dict(weights=weights), **({} if how is None else dict(normalisation=how)), **more))


def _balanced(selector: Groups) -> Groups:
    return dict(type='mmacs.ClassBalanced', selector=selector)


def _own(scorer: type) -> Groups:
    return dict(importance=dict(weights=dict(scorer.weights), normalisation=scorer.normalisation))


_TOP, _DRAWN = dict(type='mmacs.TopK'), dict(type='mmacs.GumbelTopK', temperature=0.5)
_TOP_OF_EACH = _balanced(_TOP)
_MIXED = dict(evs='beta', ds='1 - beta')
_ONCE = dict(schedule=dict(rounds=1))
# strata of raw errors, since those of ranks are all alike; the share that is cut is ours
_STRATA = dict(type='mmacs.Stratified', hard_cut=0.1)
_SWEEP = dict(type='mmacs.Sweep', floor=0.1)
# what the teacher says does not change: one round, in which the quantized model does not run
_TRUSTED = dict(
    _by(dict(teacher_error=1.0), 'none'), selector=dict(type='mmacs.Random'), constraints=dict(trim='auto'), **_ONCE
)
_INFOBATCH = dict(
    _by(dict(loss=1.0), 'none'),
    selector=dict(type='mmacs.SoftPruning'),
    schedule=dict(interval=1, full_data_last=0.125),
    cost=dict(harvest=True, rescore=0.0),
    unbiased=True,
)


def _top(classifier: Optional[Groups], detector: Optional[Groups], **more: Any) -> Dict[str, Optional[Groups]]:
    """The highest scores, for classifiers those of each class."""
    return dict(
        classifier=None if classifier is None else {**classifier, 'selector': _TOP_OF_EACH, **more},
        detector=None if detector is None else {**detector, 'selector': _TOP, **more},
    )


PRESETS: Dict[str, Preset] = {
    DEFAULT: Preset(
        'images are drawn in each epoch, those of more reducible error and disagreement more often, and classes keep '
        'their shares',
        dict(_own(ClassificationScorer), selector=_balanced(_DRAWN)),
        dict(_own(DetectionScorer), selector=_balanced(_DRAWN)),
    ),
    'acs': Preset(
        'the highest mixtures of error and disagreement, as in the paper of ACS (arXiv 2306.07215)',
        dict(_by(_MIXED, 'none', beta='cosine'), selector=_TOP),
        dict(_by(_MIXED, beta='cosine'), selector=_TOP),
    ),
    'acs-code': Preset(
        'the highest mixtures of error and disagreement, as in the released code of ACS: beta falls sooner, and a '
        "classifier's classes keep their shares",
        dict(_by(_MIXED, 'none', beta='half_cosine'), selector=_TOP_OF_EACH),
        dict(_by(_MIXED, beta='half_cosine'), selector=_TOP),
    ),
    'rs2': Preset('a random subset, drawn anew in each epoch (RS2, arXiv 2305.18424)', {}, {}, redraw=True),
    'rs2-trim': Preset(
        'a random subset of the images whose annotations the teacher does not contradict, drawn anew in each epoch',
        _TRUSTED,
        _TRUSTED,
    ),
    'static': Preset('a random subset, drawn once', {}, {}, redraw=False),
    'full': Preset('all images in each epoch', {}, {}, redraw=True),
    'infobatch': Preset(
        'all images of more than mean loss and some of the others, whose losses count for more, and all data at last '
        '(InfoBatch, arXiv 2303.04947, at a fixed budget)',
        _INFOBATCH,
        _INFOBATCH,
    ),
    'afss': Preset(
        'images that are detected badly often, others rarely, none away for more than two rounds (AFSS, arXiv '
        '2603.17684, at a fixed budget)',
        None,
        dict(
            _by(dict(sufficiency=1.0), 'none'),
            selector=dict(type='mmacs.Tiers'),
            constraints=dict(max_gap=2),
            schedule=dict(interval=5),
        ),
    ),
    'ccs': Preset(
        'as many images from each stratum of errors, the largest errors left out (CCS, arXiv 2210.15809)',
        dict(_by(dict(evs=1.0), 'none'), selector=_balanced(_STRATA)),
        dict(_by(dict(evs=1.0), 'none'), selector=_STRATA),
    ),
    'el2n': Preset(
        'the largest errors early in training, chosen once (EL2N, arXiv 2107.07075)',
        **_top(_by(dict(evs=1.0)), _by(dict(evs=1.0)), schedule=dict(warmup=0.15, rounds=1)),
    ),
    'grand': Preset(
        'the largest gradients before training, chosen once (GraNd, arXiv 2107.07075)',
        **_top(_by(dict(grand=1.0)), _by(dict(grad=1.0)), **_ONCE),
    ),
    'evs': Preset('the largest errors', **_top(_by(dict(evs=1.0)), _by(dict(evs=1.0)))),
    'ds': Preset('the largest disagreements with the teacher', **_top(_by(dict(ds=1.0)), _by(dict(ds=1.0)))),
    'forgetting': Preset(
        'the images that turned from right to wrong most often (forgetting events, arXiv 1812.05159), then those of '
        'larger error',
        **_top(_by(dict(forgetting=1.0, evs=0.1), 'none'), None, schedule=dict(interval=1)),
    ),
    'margin': Preset('the smallest margins between the two likeliest classes', **_top(_by(dict(margin=1.0)), None)),
    'entropy': Preset('the predictions of highest entropy', **_top(_by(dict(entropy=1.0)), None)),
    'moderate': Preset(
        'the images around the median importance (after Moderate coreset, Xia et al. 2023)',
        dict(_by(_MIXED, 'none'), selector=_balanced(dict(type='mmacs.Moderate'))),
        dict(_by(_MIXED), selector=dict(type='mmacs.Moderate')),
    ),
    'reducible': Preset(
        'the highest mixtures of reducible error and disagreement',
        **_top(_own(ClassificationScorer), _own(DetectionScorer)),
    ),
    'sweep': Preset(
        'all images that are not learnt yet in turn, none twice before each was shown, and classes keep their shares',
        dict(_by(dict(evs=1.0), 'none'), selector=_balanced(_SWEEP)),
        dict(_by(dict(sufficiency=1.0), 'none'), selector=_balanced(_SWEEP)),
    ),
    'gap': Preset("the largest gaps to the teacher's AP", **_top(None, _by(dict(metric_gap=1.0)))),
}

# The defaults before there were presets, with which a run of that time is resumed
BEFORE: Dict[str, Groups] = {
    CLASSIFIER: dict(_by(_MIXED, 'none'), selector=_TOP, schedule=dict(interval=10)),
    DETECTOR: dict(selector=_TOP, schedule=dict(interval=10)),
}


def names(kind: str) -> List[str]:
    """Returns the names of the presets for a kind of model, ``'classifier'`` or ``'detector'``."""
    return [name for name, known in PRESETS.items() if getattr(known, kind) is not None]


def preset(name: str, kind: str) -> Groups:
    """Returns a preset's groups of the hook.

    Args:
        name (str): The preset.
        kind (str): ``'classifier'`` or ``'detector'``.

    Returns:
        dict: ``importance``, ``selector``, ``constraints``, ``schedule``, ``cost``, ``unbiased``, as far as it says
        anything of them; empty if it scores nothing.

    Raises:
        MmacsError: If there is no such preset, or it is for another kind of model.
    """
    groups = getattr(_known(name), kind)
    if groups is None:
        other = DETECTOR if kind == CLASSIFIER else CLASSIFIER
        raise MmacsError(f'preset {name!r} is for {other}s, and this is a {kind}: take {", ".join(names(kind))}')
    return deepcopy(groups)


def explain(name: str) -> str:
    """Returns what a preset stands for, one sentence for the log.

    Raises:
        MmacsError: If there is no such preset.
    """
    return f'Preset {name!r}: {_known(name).says}.'


def redraws(name: str) -> Optional[bool]:
    """Returns whether a preset that scores nothing draws anew in each epoch; None for one that scores.

    Raises:
        MmacsError: If there is no such preset.
    """
    return _known(name).redraw


def changes(base: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Returns what a config changes of a preset, or adds to it, such as ``'schedule.interval=4'``; empty for nothing.

    Args:
        base (Mapping[str, Any]): Groups of the preset.
        given (Mapping[str, Any]): Groups of the config; None for what it does not have.
    """
    found = []
    for group, value in given.items():
        before = base.get(group)
        if value is None or value == before:
            continue
        if not isinstance(value, Mapping) or 'type' in value:
            found.append(f'{group}={_written(value)}')
            continue
        known = before if isinstance(before, Mapping) else {}
        found += [
            f'{group}.{key}={_written(own)}'
            for key, own in value.items()
            if own is not None and (key not in known or known[key] != own)
        ]
    return ', '.join(found)


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{key}={_written(own)}" for key, own in value.items())})'
    return shortened(value)


def _known(name: Any) -> Preset:
    if not isinstance(name, str) or name not in PRESETS:
        raise unknown_name('preset', name, PRESETS)
    return PRESETS[name]
