"""Turns equations into MathML as the site is built: readers need no script for them, and no network."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)


def on_page_content(html: str, **others: Any) -> str:
    """Converts the equations of a page."""
    return EQUATION.sub(
        lambda found: convert(unescape(found[2]).strip(), display='inline' if found[1] == '(' else 'block'), html
    )
