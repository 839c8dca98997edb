"""Mistakes of one process are those of all: none is left waiting for another in a collective."""

from typing import Callable, List, Optional, Tuple, TypeVar

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process

from mmacs.errors import MmacsError

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


def on_main(work: Callable[[], Result]) -> Result:
    """Do something in the main process; its result, or its mistake, is that of all processes.

    Raises:
        MmacsError: If the work raises one, or an OSError.
    """
    done: List[Tuple[Optional[str], Optional[Result]]] = [(None, None)]
    if is_main_process():
        try:
            done = [(None, work())]
        except (MmacsError, OSError) as error:
            done = [(str(error), None)]
    broadcast_object_list(done)
    error, result = done[0]
    if error is not None:
        raise MmacsError(error)
    return result
