"""How commands are run, and how they answer a user's mistake: with one sentence.

Imports no framework by itself, so that ``--help`` takes no time and a missing one is such a mistake too.
"""

import os
import select
import sys
import traceback
from datetime import timedelta
from typing import Callable, Optional

from mmacs.utils.compat import check_frameworks
from mmacs.utils.errors import MmacsError, printable, reason

_ANY = 'any sentence'


def run(main: Callable[[], None]) -> None:
    """Run a command that needs the frameworks, as :func:`guarded`."""
    guarded(lambda: with_frameworks(main))


def with_frameworks(main: Callable[[], None]) -> None:
    """Run what needs the frameworks.

    Checkpoints are loaded with ``weights_only=True`` whatever the caller of ``torch.load`` asks for.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'  # for what loads past MMEngine
    check_frameworks()
    from mmacs.cli.screen import leave_out_chatter  # here, so that a missing framework is one sentence
    from mmacs.utils.checkpoints import guard_loading

    leave_out_chatter()
    guard_loading()
    main()


def guarded(main: Callable[[], None]) -> None:
    """Run a command; answer a user's mistake with one sentence on stderr and exit status 1, without a traceback.

    What is no such mistake keeps its traceback, and a sentence says so after it. Of several processes that make the
    same mistake one says it.
    """
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(141)
        sentence = explain(error)
        if sentence is None:
            if _said_elsewhere():  # the others lost the connection to the process that said it
                sys.exit(1)
            sentence = f'this should not happen, please report it with the lines above ({reason(error)})'
            _print_escaped(error)
        if _first_to_say(sentence):
            print(f'error: {printable(sentence)}', file=sys.stderr)
        sys.exit(1)


def _nobody_reads() -> bool:
    """Returns whether what reads the output has ended, as ``mmacs --help | head -1`` does; nothing more is written."""
    pipe = select.poll()
    pipe.register(sys.stdout.fileno(), select.POLLOUT)
    broken = any(event & select.POLLERR for _, event in pipe.poll(0))
    if broken:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which is flushed once more at the end
    return broken


def _print_escaped(error: BaseException) -> None:
    """Print a traceback, whose message may hold what a file says, line by line, without control characters."""
    for line in ''.join(traceback.format_exception(error)).splitlines():
        print(printable(line), file=sys.stderr)


def explain(error: BaseException) -> Optional[str]:
    """One sentence about an exception that a user can put right, None for any other.

    What mmacs finds wrong is a :class:`MmacsError`. What MMEngine fails at is told by what it was doing, see
    :mod:`mmacs.cli.failures`.
    """
    own = _own(error)
    if own is not None:
        return own
    sentence = None
    if 'mmengine' in sys.modules:  # else it did nothing
        from mmacs.cli.failures import failure  # here, since it needs the frameworks

        sentence = failure(error)
    if sentence is None and isinstance(error, OSError) and error.filename is not None:
        return f'cannot use {error.filename}: {error.strerror}'
    return sentence


def _own(error: Optional[BaseException]) -> Optional[str]:
    """Returns the sentence of what mmacs found, also where another exception was raised for it."""
    while error is not None and not isinstance(error, MmacsError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    inner = error.__context__
    put_before = error.__cause__ is None and isinstance(inner, MmacsError) and str(error).endswith(str(inner))
    if put_before:  # MMEngine 0.10.7's builders raise it anew, with the name of the class before its text
        return _own(inner)
    return str(error)


def _first_to_say(sentence: str) -> bool:
    """Returns whether no other process that ``torchrun`` started has said this; each has its own say under others."""
    _count(_ANY, 1)
    return _count(sentence, 1) in (None, 1)


def _said_elsewhere() -> bool:
    """Returns whether another process that ``torchrun`` started has said why the run ends."""
    return bool(_count(_ANY, 0))


def _count(sentence: str, more: int) -> Optional[int]:
    """Adds to how often a sentence was said in this start of the processes; None where that can't be known."""
    if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return None
    from torch.distributed import TCPStore

    try:
        store = TCPStore(os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT']), timeout=timedelta(seconds=10))
        return store.add(f'mmacs/{os.environ.get("TORCHELASTIC_RESTART_COUNT")}/{sentence}', more)
    except Exception:  # whatever is wrong with the connection, the sentence is said
        return None
