"""``type='mmacs.QuantizedModel'``: any model config, built and converted."""

import copy
import inspect
from typing import Any, Dict, Iterable, Mapping, NamedTuple, Optional, Union

from mmengine.registry import DefaultScope
from torch import nn

from mmacs.quantization.convert import quantize_model
from mmacs.quantization.sharing import mark_per_level_norms
from mmacs.registry import MODELS
from mmacs.utils.errors import MmacsError, nearest, unknown_setting
from mmacs.utils.type_names import type_name, type_path

NAME = 'QuantizedModel'
_OWN = ('model', 'recipe', 'data_preprocessor')
_MMENGINE = ('_scope_',)  # written by MMEngine into what is inherited from another library


class Source(NamedTuple):
    """What a quantized model was built from, beside its recipe.

    Attributes:
        config (dict): ``model`` and the other settings of :func:`build_quantized_model`.
        scope (str, optional): The library whose types needed no prefix, such as ``'mmdet'``.
    """

    config: Dict[str, Any]
    scope: Optional[str]


@MODELS.register_module(name=NAME)
def build_quantized_model(
    model: Optional[Union[str, type, Dict[str, Any]]] = None,
    recipe: Optional[Union[str, Dict[str, Any]]] = 'w4a4',
    **settings: Any,
) -> nn.Module:
    """Build a model from its own config and convert it in place.

    What comes back is the model itself (a ``RetinaNet``, an ``ImageClassifier``), not a wrapper: whatever works on it
    in full precision works on it now, and its checkpoints have the same keys.

    The config is that of the full-precision model with its type replaced and named in ``model``. So a config that
    inherits one of a RetinaNet writes::

        model = dict(type='mmacs.QuantizedModel', model='RetinaNet', recipe=dict(preset='w4a4'))

    and all that looks into a config for ``model.backbone`` finds it. Or the whole config is nested in ``model``::

        model = dict(_delete_=True, type='mmacs.QuantizedModel', model=_base_.model, recipe=dict(preset='w4a4'))

    Args:
        model (str, type or dict): Type of the full-precision model, or its whole config.
        recipe (str or dict, optional): See :class:`mmacs.quantization.Recipe`. None keeps full precision, for a
            baseline that has what is ours beside quantization (``mmacs.PerLevelBN``). Defaults to ``'w4a4'``.
        **settings (Any): Where ``model`` is a type, what that is built from. Beside a whole config only
            ``data_preprocessor``, which is used if the config has none: MMEngine's Runner puts a top-level
            ``data_preprocessor``, as MMPreTrain configs have, into the outermost model config.

    Returns:
        nn.Module: The quantized model.

    Raises:
        MmacsError: If ``model`` is missing or unknown, or settings are none of its own.
    """
    given = copy.deepcopy({'model': model, **settings})  # constructors take parts out of what they get
    built = MODELS.build(full_precision_config({'type': f'mmacs.{NAME}', 'model': model, **settings}))
    if recipe is None:
        mark_per_level_norms(built)
    else:
        quantize_model(built, recipe)
    current = DefaultScope.get_current_instance()
    built.built_from = Source(given, None if current is None else current.scope_name)
    return built


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Returns whether a model's config is one of a quantized model."""
    kind = type_path(config.get('type'))
    ours = '.' not in kind or kind.startswith('mmacs.')
    return ours and type_name(kind) in (NAME, build_quantized_model.__name__)


def full_precision_config(config: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns the config of the full-precision model behind a model's config.

    It is the same for both forms of a quantized model's config, see :func:`build_quantized_model`, and that of any
    other model as it is.

    Args:
        config (Mapping[str, Any]): What ``model`` of a whole config is.

    Returns:
        Dict[str, Any]: The config; its values are those of the given one, not copies.

    Raises:
        MmacsError: If it is one of a quantized model and its ``model`` is missing or unknown, or has other settings.
    """
    if not is_quantized(config):
        return dict(config)
    settings = {key: value for key, value in config.items() if key not in ('type', 'model', 'recipe')}
    if settings.get('data_preprocessor', ...) is None:  # MMPreTrain's get_model writes what a config lacks
        del settings['data_preprocessor']
    model = config.get('model')
    if isinstance(model, dict):
        beside = [key for key in settings if key not in ('data_preprocessor', *_MMENGINE)]
        if beside:
            raise _beside_a_whole_config(beside)
        if 'type' not in model:
            raise MmacsError('the whole config in model=dict(...) of mmacs.QuantizedModel has no type')
        return {**settings, **model}
    if not isinstance(model, (str, type)):
        raise MmacsError(
            f"mmacs.QuantizedModel needs the type of the full-precision model, as in model='RetinaNet', or its whole "
            f'config as its model, got {model!r}'
        )
    _check_settings(model, settings)
    return {'type': model, **settings}


def _beside_a_whole_config(beside: Iterable[str]) -> MmacsError:
    """The error for settings that stand beside the whole config, or are misspelled ones of ours."""
    for name in beside:
        if nearest(name, _OWN, cutoff=0.75):
            return unknown_setting(NAME, name, _OWN)
    return MmacsError(
        f'mmacs.QuantizedModel has a whole config as its model, and beside it {", ".join(beside)}: change '
        f'model.model.{next(iter(beside))}, or give the type alone as model'
    )


def _check_settings(model: Union[str, type], settings: Mapping[str, Any]) -> None:
    """Refuse a type that does not exist, and settings that it has not, by their closest names."""
    kind = model
    if isinstance(model, str):
        with MODELS.switch_scope_and_registry(settings.get('_scope_')) as registry:
            kind = registry.get(model)
            if kind is None:
                close = nearest(model.rpartition('.')[2], registry.module_dict)
                hint = f', did you mean {close!r}?' if close else ''
                if registry.scope == 'mmacs':  # MMEngine writes it into what is inherited as `mmacs::...`
                    hint = " in mmacs: write the library it is of beside it, as in _scope_='mmdet'"
                raise MmacsError(f'there is no model {model!r} to quantize{hint}')
    parameters = inspect.signature(kind).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in settings:
        if name not in (*parameters, *_MMENGINE):
            raise unknown_setting(kind.__name__, name, [*parameters, 'recipe'])
