"""The one exception type that users are meant to read, and what goes into its sentence."""

import linecache
import traceback
from difflib import get_close_matches
from typing import Iterable, Iterator, Optional

_LONGEST = 300  # characters of another library's text


def printable(value: object, limit: int = 2000) -> str:
    """Returns a text that is safe to print: one line, of characters that can be seen, no longer than it says.

    What comes from a file can hold line breaks and the escape sequences of terminals, and so write over, or pretend to
    be, what a program says.

    Args:
        value (object): What to print.
        limit (int): Largest number of characters; of longer texts the middle is left out. Defaults to 2000.
    """
    text = str(value)
    if len(text) > limit:
        text = f'{text[: limit * 2 // 3]} ... {text[-limit // 3 :]}'
    return ''.join(one if one.isprintable() else one.encode('unicode_escape').decode() for one in text)


class MmacsError(ValueError):
    """Something the user can put right. The message is one clear sentence.

    The commands under ``tools/`` print the message alone and exit with status 1.

    Args:
        message (object): The sentence; what cannot be seen in it is escaped, see :func:`printable`.
    """

    def __init__(self, message: object = '') -> None:
        text = str(message)
        if text.startswith('Caught MmacsError in '):  # a data loader's worker hands over the text of its traceback
            text = text.rstrip().rpartition('MmacsError: ')[2]
        super().__init__(printable(text))


def nearest(name: object, known: Iterable[str], cutoff: float = 0.5) -> Optional[str]:
    """Returns the known name that is most like another one, in upper or lower case; None if none is.

    Args:
        name (object): What the user wrote.
        known (Iterable[str]): The names that exist.
        cutoff (float): How like it must be, see :func:`difflib.get_close_matches`; more where there are many names.
    """
    own = str(name).lower()
    by_lower_case = {str(one).lower(): one for one in reversed(list(known))}
    swapped = [one for one in by_lower_case if sorted(one) == sorted(own)]  # such as 'SDG', of short names far apart
    close = get_close_matches(own, swapped, n=1, cutoff=0) or get_close_matches(own, by_lower_case, n=1, cutoff=cutoff)
    return by_lower_case[close[0]] if close else None


def unknown_name(kind: str, name: object, known: Iterable[str]) -> MmacsError:
    """Build the error for a name that does not exist.

    Args:
        kind (str): What the name stands for, such as ``'beta schedule'``.
        name (object): What the user wrote.
        known (Iterable[str]): The names that exist.

    Returns:
        MmacsError: An error that names the closest known name and lists all of them.
    """
    known = sorted(set(known))
    close = nearest(name, known)
    hint = f' did you mean {close!r}?' if close else ''
    return MmacsError(f'unknown {kind} {name!r}:{hint} known names are {", ".join(known)}')


def unknown_setting(owner: str, name: str, known: Iterable[str]) -> MmacsError:
    """Build the error for a setting that something built from a config does not have.

    Args:
        owner (str): Name of what is built, such as ``'CoresetHook'``.
        name (str): What the user wrote.
        known (Iterable[str]): The settings that it has.

    Returns:
        MmacsError: An error that names the closest known setting.
    """
    close = nearest(name, known)
    return MmacsError(f'{owner} has no setting {name!r}{f", did you mean {close!r}?" if close else ""}')


def shortened(value: object, limit: int = 100) -> str:
    """Returns how Python writes a value, cut after so many characters."""
    text = repr(value)
    return text if len(text) <= limit else f'{text[:limit]} ...'


def causes(error: Optional[BaseException]) -> Iterator[BaseException]:
    """Yields an exception and what it came from, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    """Returns what an exception says, on one line; if that is nothing, the line of code that raised it."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f'{error.strerror}: {error.filename}'
    if isinstance(error, KeyError) and len(error.args) == 1 and ' ' not in str(error.args[0]):
        return f'there is no {error.args[0]!r}'
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if text:
        return text if len(text) <= _LONGEST else f'{text[:_LONGEST]} ...'
    *_, (frame, number) = traceback.walk_tb(error.__traceback__) if error.__traceback__ else [(None, 0)]
    line = linecache.getline(frame.f_code.co_filename, number).strip() if frame else ''
    return f'{type(error).__name__} at {line!r}' if line else type(error).__name__
