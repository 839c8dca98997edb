"""What the documents name exists."""

import inspect
import re
import runpy
from pathlib import Path

import pytest

from mmacs import QUANTIZERS, SCORERS, SELECTORS, CoresetHook
from mmacs.coreset.presets import PRESETS
from mmacs.registry import HOOKS, MODELS

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
    documents = [REPO / 'README.md', *(REPO / 'docs').rglob('*.md'), *(REPO / 'configs').rglob('*.md')]
    text = ''.join(path.read_text() for path in documents)
    named = re.findall(r'default_hooks\.coreset\.(\w+)[.=]', text)
    assert named and set(named) <= known


def test_the_config_reference_has_all_that_is_registered():
    pytest.importorskip('mkdocs')
    page = runpy.run_path(str(REPO / 'docs' / 'site' / 'reference.py'))
    told = {registry: {name for name, _ in entries} for registry, entries in page['registered']().items()}
    for registry, known in (('QUANTIZERS', QUANTIZERS), ('SCORERS', SCORERS), ('SELECTORS', SELECTORS)):
        assert told[registry] == {name for name, kind in known.classes.items() if kind.__module__.startswith('mmacs.')}
    for registry, known in (('HOOKS', HOOKS), ('MODELS', MODELS)):
        known.get('any')  # imports what registers
        ours = {name for name, kind in known.module_dict.items() if kind.__module__.startswith('mmacs.')}
        assert told[registry] == ours


def test_the_guides_name_all_presets_selectors_and_quantizers():
    selection, recipes = ((REPO / 'docs' / 'guides' / name).read_text() for name in ('selection.md', 'recipes.md'))
    ours = [name for name, kind in SELECTORS.classes.items() if kind.__module__.startswith('mmacs.')]
    assert not [name for name in PRESETS if f'`{name}`' not in selection]
    assert not [name for name in ours if not re.search(rf'^\| `{name}\b', selection, re.MULTILINE)]
    assert not [
        name for name, kind in QUANTIZERS.classes.items() if f'`{name}`' not in recipes and 'mmacs.' in repr(kind)
    ]
