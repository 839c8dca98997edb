"""Has docstrings with roles, and two colons before an example, as in reStructuredText, read well in Markdown."""

import re
from typing import Any

import griffe

ROLE = re.compile(r':\w+:`~?\.*([^`]+)`')
EXAMPLE = re.compile(r'::$', re.MULTILINE)


class Docstrings(griffe.Extension):
    """Puts code in the place of roles such as ``:class:`mmacs.Scorer```, and one colon in the place of two."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        """Changes the docstring of an object."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(':', ROLE.sub(r'`\1`', obj.docstring.value))
