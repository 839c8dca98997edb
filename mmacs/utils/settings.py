"""Groups of settings in configs: dicts that become frozen dataclasses."""

from dataclasses import fields
from typing import Any, Mapping, Optional, Type, TypeVar

from mmacs.utils.errors import MmacsError, unknown_name

Settings = TypeVar('Settings')


def read_group(kind: Type[Settings], name: str, given: Optional[Mapping[str, Any]]) -> Settings:
    """Returns a dataclass of settings.

    Args:
        kind (type): The dataclass; what is left out has its defaults.
        name (str): Name of the setting that holds the group, such as ``'schedule'``.
        given (Mapping[str, Any], optional): The settings, None for the defaults.

    Raises:
        MmacsError: If it is no dict, a setting is unknown, or the dataclass refuses a value.
    """
    if given is None:
        return kind()
    if not isinstance(given, Mapping):
        raise MmacsError(
            f'{name} must be a dict of settings, such as {name}=dict({fields(kind)[0].name}=...), got {given!r}'
        )
    known = [field.name for field in fields(kind)]
    for key in given:
        if key not in known:
            raise unknown_name(f'setting of {name}', key, known)
    return kind(**given)
