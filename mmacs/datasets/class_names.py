"""Names of classes: those that are asked for against those that are there."""

from collections import Counter
from typing import Iterable, Sequence

from mmacs.utils.errors import MmacsError, nearest

_SHOWN = 20  # names in a message


def require_names(classes: object, owner: str) -> None:
    """Require a sequence of different names.

    Args:
        classes (object): What a config says.
        owner (str): Whose classes they are, such as ``'CocoDataset'``.

    Raises:
        MmacsError: If it is a string, as where the comma of a tuple is forgotten, or a name repeats.
    """
    if isinstance(classes, str):
        raise MmacsError(f'classes of {owner} is the string {classes!r}: write ({classes!r},), with a comma')
    name, count = Counter(classes).most_common(1)[0] if classes else ('', 0)
    if count > 1:
        raise MmacsError(f'classes of {owner} names {name!r} {count} times')


def require_present(classes: Sequence[str], owner: str, present: Sequence[str], place: str) -> None:
    """Require all classes among the categories of a file.

    Args:
        classes (Sequence[str]): Names that a config gives.
        owner (str): Whose classes they are, such as ``'CocoDataset'``.
        present (Sequence[str]): Names of the categories.
        place (str): The file.

    Raises:
        MmacsError: If one is missing. The message has the nearest name of the file.
    """
    missing = [name for name in classes if name not in present]
    if not missing:
        return
    if len(missing) == len(classes):
        raise MmacsError(
            f'none of the {len(classes)} classes of {owner} ({listed(classes)}) is among the categories of {place}: '
            f'set metainfo=dict(classes={_as_tuple(present)})'
        )
    free = [name for name in present if name not in classes]
    close = nearest(missing[0], free) or nearest(missing[0], present)
    hint = f', did you mean {close!r}?' if close else f' ({listed(present)})'
    more = f' (nor are {listed(missing[1:])})' if len(missing) > 1 else ''
    raise MmacsError(
        f'the class {missing[0]!r} of {owner} is not among the categories of {place}{hint}{more}; MMDetection would '
        f'number the classes after it wrongly'
    )


def require_same(classes: Sequence[str], owner: str, others: Sequence[str], other_owner: str) -> None:
    """Require the same names in the same order.

    Args:
        classes (Sequence[str]): Names of one data set.
        owner (str): Which one.
        others (Sequence[str]): Names of another.
        other_owner (str): Which one.

    Raises:
        MmacsError: If they differ.
    """
    if list(classes) == list(others):
        return
    if set(classes) == set(others):
        raise MmacsError(
            f'{owner} and {other_owner} have the same classes in different orders ({listed(classes)}; '
            f'{listed(others)}), and so different numbers for them: take one order'
        )
    wrong = next((name for name in classes if name not in others), None)
    if wrong is None:
        wrong = next(name for name in others if name not in classes)
        classes, owner, others, other_owner = others, other_owner, classes, owner
    close = nearest(wrong, [name for name in others if name not in classes])
    theirs = f'{other_owner} has {close!r}' if close else f'{other_owner} has not ({listed(others)})'
    raise MmacsError(
        f'{owner} has the class {wrong!r}, and {theirs}: the classes of all data of a run must be the same, in '
        f'one order'
    )


def listed(names: Iterable[str]) -> str:
    """Returns names with commas between them; of many the first ones."""
    names = [str(name) for name in names]
    return ', '.join(names[:_SHOWN]) + (f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else '')


def _as_tuple(names: Sequence[str]) -> str:
    return repr(tuple(names)) if len(names) <= _SHOWN else '(...)'
