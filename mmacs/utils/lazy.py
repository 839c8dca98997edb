"""Names of a package that are imported when they are first used."""

from importlib import import_module
from typing import Any, Callable, List, Mapping, Sequence, Tuple


def lazy_names(
    package: str, places: Mapping[str, Sequence[str]]
) -> Tuple[Callable[[str], Any], Callable[[], List[str]], List[str]]:
    """Returns ``__getattr__``, ``__dir__`` and the names for ``__all__`` of a package (PEP 562).

    Args:
        package (str): ``__name__`` of the package.
        places (Mapping[str, Sequence[str]]): Names by the module that holds them.
    """
    place_of = {name: place for place, names in places.items() for name in names}

    def getattribute(name: str) -> Any:
        if name not in place_of:
            raise AttributeError(f'module {package!r} has no attribute {name!r}')
        return getattr(import_module(place_of[name]), name)

    return getattribute, lambda: sorted(place_of), list(place_of)
