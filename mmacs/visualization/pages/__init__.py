"""Pages that hold everything themselves: one file, no network, and no script but those that are written for them."""

import base64
import hashlib
from pathlib import Path
from typing import Any, Sequence

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmacs.utils.errors import printable

_SHARED = Path(__file__).parent


def render(template: Path, assets: Sequence[Path], data: Any, **values: Any) -> str:
    """Returns a page.

    All texts are escaped, control characters in them too. A policy in the page forbids browsers all scripts but these
    and all that isn't in the page, so that even a text that got through could do nothing.

    Args:
        template (Path): A file that extends ``base.html.j2``.
        assets (Sequence[Path]): Scripts (``.js``) and style sheets (``.css``) beside those that all pages have.
        data (Any): What the scripts find as ``page.data``: values that JSON can hold.
        **values: What the template shows.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script, style = (_joined(suffix, assets) for suffix in ('.js', '.css'))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template.name).render(
        **values,
        page_data=data,
        page_script=Markup(script),
        page_script_digest=digest,
        page_style=Markup(style),
    )


def _joined(suffix: str, assets: Sequence[Path]) -> str:
    files = [(_SHARED / 'page').with_suffix(suffix), *(path for path in assets if path.suffix == suffix)]
    return '\n'.join(path.read_text(encoding='utf-8') for path in files)


def _shown(value: Any) -> Any:
    """Escapes control characters of all that the page shows but what is written for it; jinja escapes the rest."""
    return printable(value) if type(value) is str else value
