"""Tables on a terminal, and whole where there is none."""

from rich.console import Console


def table_console(width: int = 180, least: int = 0) -> Console:
    """Returns what prints tables: as wide as the terminal, or where the output is a file or a pipe, that wide.

    Args:
        width (int): Characters of a line where there is no terminal. Defaults to 180.
        least (int): Characters of a line on a narrower terminal, which breaks lines itself then: for tables with
            nothing to wrap, whose cells would be cut off. Defaults to 0.
    """
    console = Console()
    return Console(width=max(console.width, least)) if console.is_terminal else Console(width=width)
