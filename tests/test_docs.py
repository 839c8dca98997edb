"""What the documents name exists."""

import inspect
import re
from pathlib import Path

from mmacs import CoresetHook

REPO = Path(__file__).parents[1]


def test_the_failure_modes_name_tests_that_exist():
    text = (REPO / 'docs' / 'failure_modes.md').read_text()
    rows = [line.split('|')[-2] for line in text.splitlines() if re.match(r'\| \d+ \|', line)]
    assert len(rows) == 15
    for cell in rows:
        files = re.findall(r'`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)', cell)
        assert files, cell
        for file, tests in files:
            (path,) = (REPO / 'tests').rglob(file)
            source = path.read_text()
            missing = [name for name in re.findall(r'\w+', tests) if f'def test_{name}(' not in source]
            assert not missing, (file, missing)


def test_the_commands_of_the_documents_name_settings_of_the_coreset_hook():
    known = set(inspect.signature(CoresetHook).parameters) - {'others'}
    documents = [REPO / 'README.md', *(REPO / 'docs').glob('*.md'), *(REPO / 'configs').rglob('*.md')]
    text = ''.join(path.read_text() for path in documents)
    named = re.findall(r'default_hooks\.coreset\.(\w+)[.=]', text)
    assert named and set(named) <= known
