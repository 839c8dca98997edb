"""Tables on a terminal, and whole where there is none."""

from rich.console import Console


def table_console(width: int = 180) -> Console:
    """Returns what prints tables: as wide as the terminal, or where the output is a file or a pipe, that wide.

    Args:
        width (int): Characters of a line where there is no terminal. Defaults to 180.
    """
    console = Console()
    return console if console.is_terminal else Console(width=width)
