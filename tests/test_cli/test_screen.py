"""What goes to the screen, and what to the log's file alone."""

import ast
import builtins
import inspect
import sys
from types import ModuleType

import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmacs.cli import screen
from mmacs.utils.details import log_detail


class Idle(nn.Module):
    """A model that is never run."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """MMEngine's own lines on the environment, which other tests leave out, without what takes long to find."""
    module = sys.modules[Runner.__module__]
    (kind,) = [part for part in ast.parse(inspect.getsource(module)).body if getattr(part, 'name', '') == 'Runner']
    (log,) = [part for part in kind.body if getattr(part, 'name', '') == '_log_env']
    found = {**vars(module), 'collect_env': dict}
    exec(compile(ast.Module([log], []), module.__file__, 'exec'), found)
    monkeypatch.setattr(Runner, '_log_env', found['_log_env'])


@pytest.fixture
def built(tmp_path, capfd):
    """Builds a runner; gives what it showed and what its log's file holds."""

    def build(name, log_level):
        cfg = Config(dict(model=Idle(), work_dir=str(tmp_path / name), experiment_name=f'{name} {tmp_path}'))
        with screen.short_screen(log_level):
            runner = Runner(**cfg, cfg=cfg, log_level=log_level)
        runner.logger.info('a line')
        log_detail('a table')
        runner.logger.warning('backbone.conv1.weight is skipped since its requires_grad=False')
        runner.logger.warning('a warning')
        (file,) = (tmp_path / name).glob('*/*.log')
        return capfd.readouterr().out, file.read_text()

    return build


ALWAYS = {'a line', 'a warning'}
AT_LENGTH = {
    'System environment:',
    'Config:',
    'Hooks will be executed in the following order:',
    'a table',
    'is skipped',
}


def test_environment_config_hooks_and_tables_go_to_the_file_alone(built):
    shown, file = built('short', 'INFO')
    assert {part for part in ALWAYS | AT_LENGTH if part in shown} == ALWAYS
    assert {part for part in ALWAYS | AT_LENGTH if part in file} == ALWAYS | AT_LENGTH
    assert len(shown.splitlines()) == 2


def test_all_is_shown_on_request_and_to_runners_that_are_built_elsewhere(built, tmp_path, capfd):
    shown, _ = built('long', 'DEBUG')
    assert {part for part in ALWAYS | AT_LENGTH if part in shown} == ALWAYS | AT_LENGTH
    with screen.short_screen():
        pass
    Runner(Idle(), str(tmp_path / 'own'), experiment_name=f'own {tmp_path}')
    assert 'System environment:' in capfd.readouterr().out


def test_chatter_of_libraries_is_left_out_and_their_results_are_not(monkeypatch, capsys):
    module = ModuleType('pycocotools.cocoeval')
    monkeypatch.setattr(screen, 'import_module', lambda name: module)
    screen.leave_out_chatter()
    exec("print('Accumulating evaluation results...'); print(' Average Precision', 0.5); print()", vars(module))
    assert capsys.readouterr().out == ' Average Precision 0.5\n\n'
    assert builtins.print is print
