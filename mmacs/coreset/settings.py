"""The settings of coreset selection, grouped as configs have them."""

import math
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Dict, List, Mapping, Optional, Union

from torch import nn

from mmacs.coreset.budget.cost import AUTO, Cost
from mmacs.coreset.budget.schedule import Schedule
from mmacs.coreset.presets import BEFORE, DEFAULT
from mmacs.coreset.presets import preset as groups_of
from mmacs.coreset.scoring.proxy import Proxy
from mmacs.coreset.scoring.scorers import ClassificationScorer, Scorer
from mmacs.coreset.selection.constraints import Constraints
from mmacs.coreset.selection.importance import Importance
from mmacs.coreset.selection.policy import Policy
from mmacs.coreset.selection.selectors import Selector
from mmacs.coreset.state import scored_columns
from mmacs.quantization.convert import quantizers
from mmacs.utils.checks import is_number, require_whole
from mmacs.utils.errors import MmacsError, nearest, unknown_name
from mmacs.utils.registry import SCORERS, SELECTORS
from mmacs.utils.settings import read_group

Group = Optional[Mapping[str, Any]]
MAX_WEIGHT = 10.0


@dataclass(frozen=True)
class Images:
    """How images are brought to the models for scoring.

    Args:
        pipeline (list, optional): Configs of a deterministic pipeline with annotations; None makes it of the validation
            pipeline and the loading transforms of the training pipeline.
        batch_size (int, optional): Images per batch and process; None takes that of training.

    Raises:
        MmacsError: If the batch size is no positive integer, or the pipeline no list of transforms.
    """

    pipeline: Optional[List[Dict[str, Any]]] = None
    batch_size: Optional[int] = None

    def __post_init__(self) -> None:
        pipeline = self.pipeline
        if pipeline is not None and not (
            isinstance(pipeline, (list, tuple)) and pipeline and all(isinstance(step, Mapping) for step in pipeline)
        ):
            raise MmacsError(f'scoring.pipeline must be a list of transforms (dicts with a type), got {pipeline!r}')
        if self.batch_size is not None:
            require_whole('batch_size', self.batch_size)


def read_max_weight(unbiased: Union[bool, float]) -> Optional[float]:
    """Returns the bound on loss weights, None if losses are not weighted.

    Args:
        unbiased (bool or float): Whether losses are weighted, or the bound itself.

    Raises:
        MmacsError: If it is neither.
    """
    if isinstance(unbiased, bool):
        return MAX_WEIGHT if unbiased else None
    if not is_number(unbiased) or unbiased < 1:
        raise MmacsError(f'unbiased must be True, False, or a bound on the weights of at least 1, got {unbiased!r}')
    return float(unbiased)


@dataclass(frozen=True)
class CoresetSettings:
    """What a config says of coreset selection.

    Args:
        scorer (Scorer): What says what an image is worth.
        importance (Importance): How its columns become one number.
        policy (Policy): Which images that number buys.
        schedule (Schedule): When rounds are held.
        cost (Cost): What they may cost.
        images (Images): How images are brought to the models.
        max_weight (float, optional): Bound on the weights of losses; None leaves losses as they are.
        weights_given (bool): Whether the importance has weights of the config, not the preset's.
        preset (str): What the config changes, see :mod:`mmacs.coreset.presets`.

    Raises:
        MmacsError: If settings don't go together.
    """

    scorer: Scorer
    importance: Importance
    policy: Policy
    schedule: Schedule = Schedule()
    cost: Cost = Cost()
    images: Images = Images()
    max_weight: Optional[float] = None
    weights_given: bool = True
    preset: str = DEFAULT

    @classmethod
    def read(
        cls,
        scorer: Group = None,
        importance: Group = None,
        selector: Group = None,
        constraints: Group = None,
        schedule: Group = None,
        cost: Union[Group, str] = None,
        scoring: Group = None,
        unbiased: Optional[Union[bool, float]] = None,
        others: Mapping[str, Any] = MappingProxyType({}),
        preset: str = DEFAULT,
        before_presets: bool = False,
    ) -> 'CoresetSettings':
        """Reads a config, see :class:`mmacs.CoresetHook`.

        ``others`` are settings that it does not have. With ``before_presets`` defaults are those of the time before
        there were presets.

        Raises:
            MmacsError: If a setting is unknown or out of range.
        """
        refuse_others(others)
        built = SCORERS.build(scorer, Scorer)
        base = _before_presets(built) if before_presets else _preset_of(built, preset)
        if isinstance(importance, Mapping):
            importance = {name: value for name, value in importance.items() if value is not None}
        weights_given = isinstance(importance, Mapping) and 'weights' in importance
        if not weights_given and preset != DEFAULT:
            _require_columns(preset, built, base['importance']['weights'])
        own = {'importance': importance, 'constraints': constraints, 'schedule': schedule, 'cost': _written_out(cost)}
        groups = {name: _merged(base.get(name), value) for name, value in own.items()}
        return cls(
            built,
            _read('importance', groups['importance']),
            Policy(
                SELECTORS.build(base['selector'] if selector is None else selector, Selector),
                _read('constraints', groups['constraints']),
            ),
            _read('schedule', groups['schedule']),
            _read('cost', groups['cost']),
            _read('scoring', scoring),
            read_max_weight(base.get('unbiased', False) if unbiased is None else unbiased),
            weights_given=weights_given,
            preset=preset,
        )

    def __post_init__(self) -> None:
        Proxy(self.cost.resolution, self.cost.precision)  # names its mistakes now
        if self.cost.harvest and not self.training_columns:
            raise MmacsError(
                f'harvest: none of {self.scored_columns} can be had from a training forward, but '
                f'{sorted(self.scorer.training_columns)} can: choose weights with one of these, or leave out harvest'
            )
        if self.policy.selector.needs_raw and self.importance.normalisation != 'none':
            raise MmacsError(
                f'the floor of mmacs.Sweep is in units of the error, and there is none with '
                f'normalisation={self.importance.normalisation!r}: write importance=dict(weights=dict(evs=1.0), '
                f"normalisation='none')"
            )
        dear = sorted(set(self.scored_columns) - set(self.training_columns))
        if self.cost.rescore == 0 and dear and self.schedule.rounds != 1:
            without = ' without harvest=True' if self.scorer.training_columns.issuperset(dear) else ''
            raise MmacsError(
                f'rescore=0 scores nothing after the first round, and {", ".join(dear)} cannot be harvested{without}: '
                f'set a rescore above 0, other weights, or rounds=1'
            )

        if self.cost.rescore == 0 and self.cost.candidates is not None and self.schedule.rounds != 1:
            raise MmacsError(
                'rescore=0 scores nothing after the first round, and each round has other candidates: leave out one'
            )
        trim = self.policy.constraints.trim
        if is_number(trim) and (self.cost.candidates or math.inf) * (1 - trim) < 1:
            raise MmacsError(
                f'candidates={self.cost.candidates:g} and trim={trim:g} leave fewer images than the coreset holds: '
                f'raise candidates to at least {math.ceil(100 / (1 - trim)) / 100:g}'
            )

    def of(self, model: nn.Module) -> 'CoresetSettings':
        """Returns the settings for a model.

        One without quantizers has no full-precision model that it came from: by the default preset its importance is
        made of the scorer's ``plain_weights`` where the config has no weights, and nothing may ask for a teacher.

        Raises:
            MmacsError: If it has no quantizers, and a column needs a teacher.
        """
        if not self.needs_teacher or next(quantizers(model), None) is not None:
            return self
        plain = self
        if not self.weights_given and self.preset == DEFAULT:
            plain = replace(self, importance=replace(self.importance, weights=self.scorer.plain_weights))
        if plain.needs_teacher:
            needed = self.scorer.teacher_columns
            asked = ' and '.join(column for column in plain.scored_columns if column in needed)
            others = ', '.join(column for column in self.scorer.columns if column not in needed)
            trim = ', which trim asks for,' if not needed & set(plain.importance.columns) else ''
            trim = trim or ('' if self.weights_given else f', which preset {self.preset!r} asks for,')
            raise MmacsError(
                f'{asked}{trim} cannot be scored: they compare a quantized model with what it was in full precision, '
                f'and this {type(model).__name__} is not quantized: choose among {others}, without trim, or write '
                f"model=dict(type='mmacs.QuantizedModel', ...)"
            )
        return plain

    def over(self, end: int) -> 'CoresetSettings':
        """Returns the settings for a run that ends at ``end``, in epochs or iterations."""
        return replace(self, schedule=self.schedule.over(end))

    @property
    def columns(self) -> List[str]:
        """Columns that are known of each image, derived ones among them."""
        trimming = []
        if self.policy.constraints.trim:
            # where the quantized model does not run, chance tells images of equal error apart, not their disagreement
            trimming = ['teacher_error'] if self.teacher_alone else ['teacher_error', 'ds']
        return list(dict.fromkeys([*self.importance.columns, *trimming]))

    @property
    def teacher_alone(self) -> bool:
        """Whether importance is what the teacher says alone, so that the quantized model need not run."""
        return self.scorer.kept_columns.issuperset(self.importance.columns)

    @property
    def scored_columns(self) -> List[str]:
        """Columns that the scorer computes."""
        return scored_columns(self.columns)

    @property
    def training_columns(self) -> List[str]:
        """Columns that are taken from training forwards too."""
        return [c for c in self.scored_columns if self.cost.harvest and c in self.scorer.training_columns]

    @property
    def needs_teacher(self) -> bool:
        """Whether any column needs the teacher's outputs."""
        return bool(self.scorer.teacher_columns & set(self.scored_columns))


_GROUPS = {'importance': Importance, 'constraints': Constraints, 'schedule': Schedule, 'cost': Cost, 'scoring': Images}
# where each setting is; mmacs 0.1 had no groups, and one name was another
_PLACES = {field.name: (group, field.name) for group, kind in _GROUPS.items() for field in fields(kind)}
_OLD_PLACES = {**_PLACES, 'selection_budget': ('cost', 'budget')}


def check_settings(
    scorer: Group = None,
    importance: Group = None,
    selector: Group = None,
    unbiased: Optional[Union[bool, float]] = None,
    others: Mapping[str, Any] = MappingProxyType({}),
    **groups: Group,
) -> None:
    """Names the mistakes of settings that a preset which scores nothing has no use for.

    Raises:
        MmacsError: If a setting is unknown or out of range.
    """
    refuse_others(others)
    for registry, given, base in ((SCORERS, scorer, Scorer), (SELECTORS, selector, Selector)):
        if given is not None:
            registry.build(given, base)
    groups = {**groups, 'cost': _written_out(groups.get('cost'))}
    for group, given in {'importance': _merged({'weights': Scorer.weights}, importance), **groups}.items():
        _read(group, given)
    read_max_weight(False if unbiased is None else unbiased)


def _preset_of(scorer: Scorer, name: str) -> Dict[str, Any]:
    """Returns the groups of a preset for a scorer; the default one takes weights and scale of the scorer."""
    groups = groups_of(name, scorer.kind)
    of_scorer = {'normalisation': scorer.normalisation}
    if name == DEFAULT:
        return {**groups, 'importance': {**of_scorer, 'weights': scorer.weights}}
    return {**groups, 'importance': {**of_scorer, **groups['importance']}}


def _before_presets(scorer: Scorer) -> Dict[str, Any]:
    """Returns the defaults that a scorer had before there were presets."""
    groups, own = BEFORE[scorer.kind], {}
    if scorer.weights is not ClassificationScorer.weights:
        own = {'weights': scorer.weights}
    of_scorer = {'weights': scorer.weights, 'normalisation': scorer.normalisation}
    return {**groups, 'importance': {**of_scorer, **groups.get('importance', {}), **own}}


def _merged(base: Group, given: Group) -> Group:
    """Returns a group of a preset, with what the config gives in its place."""
    if base is None or given is None or not isinstance(given, Mapping):
        return base if given is None else given
    return {**base, **given}


def _require_columns(preset: str, scorer: Scorer, weights: Mapping[str, Any]) -> None:
    """Requires that a scorer has the columns that a preset weighs."""
    missing = [column for column in scored_columns(list(weights)) if column not in scorer.columns]
    if missing:
        raise MmacsError(
            f'preset {preset!r} needs the column {missing[0]}, which {type(scorer).__name__} does not have: take '
            f"another one, such as {DEFAULT!r} or 'rs2'"
        )


def _read(group: str, given: Group) -> Any:
    """Returns a group of settings; says where one belongs that is in the wrong group."""
    for name in given if isinstance(given, Mapping) else ():
        if _PLACES.get(name, (group, name))[0] != group:
            raise MmacsError(f'{name} is no setting of {group}: write {_PLACES[name][0]}=dict({name}={given[name]!r})')
    return read_group(_GROUPS[group], group, given)


def _written_out(cost: Union[Group, str]) -> Group:
    """Returns the group that a config means by ``cost``: ``'auto'`` is a budget.

    Raises:
        MmacsError: If it is another word.
    """
    if isinstance(cost, str) and cost != AUTO:
        raise MmacsError(f"cost must be a dict of settings, such as cost=dict(candidates=4), or 'auto', got {cost!r}")
    return {'budget': AUTO} if cost == AUTO else cost


def refuse_others(others: Mapping[str, Any]) -> None:
    """Refuses settings that there are not; those of a group, as mmacs 0.1 had them all, with a hint at it.

    Raises:
        MmacsError: If there are any.
    """
    groups: Dict[str, List[str]] = {}
    flat = [name for name in others if name in _OLD_PLACES]
    for name in flat:
        group, key = _OLD_PLACES[name]
        groups.setdefault(group, []).append(f'{key}={others[name]!r}')
    if flat:
        written = ', '.join(f'{group}=dict({", ".join(settings)})' for group, settings in groups.items())
        belong = 'belongs to a group' if len(flat) == 1 else 'belong to groups'
        raise MmacsError(f'{", ".join(flat)} {belong} of CoresetHook: write {written}')
    for name, value in others.items():
        if name == 'max_weight':
            bound = repr(value) if is_number(value) and value >= 1 else '<a bound of at least 1>'
            raise MmacsError(
                f'CoresetHook has no setting max_weight: leave it out, or write unbiased={bound} in the place of '
                f'unbiased=True'
            )
        own = [*_GROUPS, 'scorer', 'selector', 'unbiased', 'cache_dir', 'preset']
        close = nearest(name, [*own, *_PLACES])
        if close in _PLACES:
            group, key = _PLACES[close]
            raise MmacsError(f'unknown setting of CoresetHook {name!r}: did you mean {group}=dict({key}={value!r})?')
        raise unknown_name('setting of CoresetHook', name, own)
