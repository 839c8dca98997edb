"""Mistakes of one process are those of all: none is left waiting for another in a collective."""

from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional, Tuple, Type, TypeVar

import torch
from mmengine.dist import (
    all_gather,
    all_gather_object,
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
)
from torch import Tensor

from mmacs.utils.errors import MmacsError

Result = TypeVar('Result')


def everywhere(error: Optional[str]) -> None:
    """Raise in all processes what is wrong in one. Call it in all of them.

    Args:
        error (str, optional): What is wrong in this process.

    Raises:
        MmacsError: With the sentence of the first process that has one.
    """
    for found in all_gather_object(error):
        if found is not None:
            raise MmacsError(found)


@contextmanager
def together() -> Iterator[None]:
    """What all processes do at once: an exception of one inside is raised in all of them, at the end.

    Whoever catches it catches it in all processes, so that none goes on to a collective alone. It is that of the first
    process that failed. There it is raised as it is; in the others, which have its text alone:

    Raises:
        RuntimeError: If it is one, as torch raises them.
        MmacsError: If it is any other.
    """
    fault: Optional[Exception] = None
    try:
        yield
    except Exception as error:  # no other process may wait for ever
        fault = error
    for rank, found in enumerate(all_gather_object(None if fault is None else _told(fault))):
        if found is not None:
            if rank == get_rank():
                raise fault
            kind, text = found
            raise kind(text) from fault


def _told(error: Exception) -> Tuple[Type[Exception], str]:
    """Returns the kind and the text that other processes raise for an exception of this one."""
    if isinstance(error, MmacsError):
        return MmacsError, str(error)
    kind = RuntimeError if isinstance(error, RuntimeError) else MmacsError
    return kind, f'process {get_rank()} failed: {type(error).__name__}: {error}'


def gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows (B, ...) of all processes, one process after the other; each may have another B."""
    if get_world_size() == 1:
        return rows
    counts = torch.cat(all_gather(torch.tensor([len(rows)])))
    padded = rows.new_zeros(int(counts.max()), *rows.shape[1:])
    padded[: len(rows)] = rows
    return torch.cat([part[:count] for part, count in zip(all_gather(padded), counts)])


def on_main(work: Callable[[], Result]) -> Result:
    """Do something in the main process; its result, or its mistake, is that of all processes.

    Raises:
        MmacsError: If the work raises one, or an OSError; of anything else, which is a bug, in the other processes.
    """
    done: List[Tuple[Optional[str], Optional[Result]]] = [(None, None)]
    bug: Optional[Exception] = None
    if is_main_process():
        try:
            done = [(None, work())]
        except (MmacsError, OSError) as error:
            done = [(str(error), None)]
        except Exception as error:  # no other process may wait for ever
            done, bug = [(f'the main process failed: {type(error).__name__}: {error}', None)], error
    broadcast_object_list(done)
    if bug is not None:
        raise bug
    error, result = done[0]
    if error is not None:
        raise MmacsError(error)
    return result
