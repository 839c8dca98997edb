"""Takes Markdown and configs outside of `docs` into the site, and has links lead there as they do in the repository."""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = ('CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md', 'configs/**/*.md', 'configs/**/*.py', 'configs/**/*.yml')
HOME = {'README.md': 'index.md'}  # what of the repository is another page of the site
LINK = re.compile(r'(!?)\[([^\[\]]*)\]\(([^)\s]+)\)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside of `docs`, under the paths that they have in the repository."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Has relative links lead to pages of the site; of a file that is none, the text stays."""
    own = page.file.src_uri
    place = own if page.file.generated_by else f'docs/{own}'

    def link(found: re.Match) -> str:
        image, text, target = found.groups()
        path, _, anchor = target.partition('#')
        if not path or ':' in path:
            return found[0]
        meant = os.path.normpath(os.path.join(os.path.dirname(place), path))
        uri = HOME.get(meant, meant.removeprefix('docs/'))
        if os.path.isdir(ROOT / meant) and files.get_file_from_path(f'{uri}/README.md'):
            uri = f'{uri}/README.md'
        if not files.get_file_from_path(uri):
            if (ROOT / meant).exists() and not meant.startswith('docs/'):
                return text
            return found[0]  # mkdocs warns of it
        relative = os.path.relpath(uri, os.path.dirname(own) or '.')
        return f'{image}[{text}]({relative}{"#" + anchor if anchor else ""})'

    parts = re.split(r'(^```.*?^```)', markdown, flags=re.MULTILINE | re.DOTALL)
    return ''.join(part if part.startswith('```') else LINK.sub(link, part) for part in parts)
