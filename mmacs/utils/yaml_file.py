"""Reads YAML that anybody may have written."""

import os
import re
from pathlib import Path
from typing import Any, Dict, Hashable

import yaml

from mmacs.utils.errors import MmacsError, printable, shortened

_MAX_BYTES = 1_000_000


class _Loader(yaml.SafeLoader):
    """YAML's own, which makes plain values alone; no key twice, no aliases, and ``1e-3`` is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes the next part.

        Raises:
            ComposerError: If it is an alias, which can stand for endlessly much.
        """
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, 'aliases (*name) are not read here: write it out', mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Dict[Hashable, Any]:
        """Makes a dict.

        Raises:
            ConstructorError: If it has a key twice.
        """
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                problem = f'it has the key {shortened(key.value)} twice'
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 takes numbers without a point, such as 1e-3, for text
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float', re.compile(r'[-+]?[0-9][0-9]*(\.[0-9]*)?[eE][-+]?[0-9]+$'), list('-+0123456789')
)


def read_mapping(path: os.PathLike, what: str) -> Dict[str, Any]:
    """Read a YAML file that holds a mapping; nothing of it is executed.

    Args:
        path (os.PathLike): The file, UTF-8.
        what (str): What it holds, such as ``'grid'``.

    Raises:
        MmacsError: If it cannot be read, or holds something else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f'it has more than {_MAX_BYTES} bytes')
        found = yaml.load(path.read_text(encoding='utf-8'), Loader=_Loader)  # noqa: S506, a SafeLoader
    except OSError as error:
        raise MmacsError(f'cannot read the {what} {path}: {error.strerror or error}') from error
    except yaml.MarkedYAMLError as error:
        line = '' if error.problem_mark is None else f' (line {error.problem_mark.line + 1})'
        raise MmacsError(f'cannot read the {what} {path}: {printable(error.problem or error.context)}{line}') from error
    except RecursionError as error:
        raise MmacsError(f'cannot read the {what} {path}: it is nested too deep') from error
    except (ValueError, yaml.YAMLError) as error:
        raise MmacsError(f'cannot read the {what} {path}: {printable(error, 200)}') from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise MmacsError(f'the {what} {path} is no mapping of names to values: write lines such as "config: my.py"')
    return found
