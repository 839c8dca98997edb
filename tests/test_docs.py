"""What the documents name exists."""

import re
from pathlib import Path

REPO = Path(__file__).parents[1]


def test_the_failure_modes_name_tests_that_exist():
    text = (REPO / 'docs' / 'failure_modes.md').read_text()
    named = re.findall(r'`(test_\w+\.py)`(?:: `(\w+)`(?:, `(\w+)`)?)?', text)
    assert len(named) >= 15
    for file, *tests in named:
        source = (REPO / 'tests' / 'test_coreset' / file).read_text()
        assert all(f'def test_{test}(' in source for test in tests if test), (file, tests)
