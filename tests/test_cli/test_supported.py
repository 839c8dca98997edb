"""``mmacs models``: what it lists is what tests convert, train, score and export."""

from rich.table import Table

from mmacs import cli
from mmacs.cli.supported import MODELS
from mmacs.cli.tables import table_console
from tests.conftest import REPO
from tests.test_deploy import classifiers, detectors
from tests.test_quantization import test_architectures as trained


def test_each_model_is_one_that_tests_train_and_score():
    tested = {f'mmdet::{path}' for path, *_ in trained.DETECTORS.values()}
    tested |= {f'mmpretrain::{path}' for path, *_ in trained.CLASSIFIERS.values()}
    listed = {row.config for row in MODELS.values()}
    own = {config for config in listed if config.startswith('mmacs::')}
    assert listed - own == tested
    assert all((REPO / 'configs' / config.partition('::')[2]).is_file() for config in own)


def test_what_is_exported_is_what_tests_export():
    exported = {name: row for name, row in MODELS.items() if row.exports}
    paths = {f'mmdet::{path}' for path, _ in detectors.DETECTORS.values()}
    assert {row.config for row in exported.values() if row.kind != 'classifier'} == paths
    names = {name for name, row in exported.items() if row.kind == 'classifier'}
    assert {name for name in names for tested in classifiers.CLASSIFIERS if tested.startswith(name)} == names
    assert all(tested.startswith(tuple(names)) for tested in classifiers.CLASSIFIERS)


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch, capsys):
    monkeypatch.setenv('FORCE_COLOR', '1')  # as a terminal
    monkeypatch.setenv('COLUMNS', '80')
    cli.main(['models'])
    assert '…' not in capsys.readouterr().out
    numbers = Table('layer', *(f'column {number}' for number in range(20)), box=None)
    assert (table_console().width, table_console(220, least=220).width) == (80, 220)
    table_console(220, least=220).print(numbers)
    assert 'column 19' in capsys.readouterr().out


def test_the_table_lists_all_or_one_kind(capsys):
    cli.main(['models'])
    everything = capsys.readouterr().out
    assert all(f' {name} ' in everything and row.config in everything for name, row in MODELS.items())
    cli.main(['models', '--kind', 'query'])
    queries = capsys.readouterr().out
    assert ' DINO ' in queries and ' RetinaNet ' not in queries
