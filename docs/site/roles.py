"""Has docstrings that name things in Sphinx's roles show them as code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r':\w+:`~?\.*([^`]+)`')


class Roles(griffe.Extension):
    """Puts code in the place of roles such as ``:class:`mmacs.Scorer```."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Changes the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r'`\1`', obj.docstring.value)
