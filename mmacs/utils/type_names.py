"""What the ``type`` of a config names: a registered name, the path of a class, or in newer configs the class itself."""

from typing import Any


def type_path(kind: Any) -> str:
    """Returns the path that a class or function is imported by, such as ``'mmdet.models.detectors.fcos.FCOS'``.

    Args:
        kind (Any): A config's ``type``; what is a name already is given back.
    """
    if hasattr(kind, '__qualname__'):
        return f'{kind.__module__}.{kind.__qualname__}'
    return str(kind)


def type_name(kind: Any) -> str:
    """Returns the last part of a name: ``'FCOS'`` for ``'mmdet.FCOS'`` and for the class.

    Args:
        kind (Any): A config's ``type``.
    """
    return type_path(kind).rpartition('.')[2]
