import ast
import importlib.util
import zipfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / 'tools' / 'bootstrap.py'
spec = importlib.util.spec_from_file_location('bootstrap', SOURCE)
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)


def bumped(name):
    return {**bootstrap.PINS, name: bootstrap.PINS[name] + '.post1'}


def write_wheel(folder, member='mmcv/_ext.cpython-311-x86_64-linux-gnu.so'):
    wheel = folder / f'onedl_mmcv-{bootstrap.PINS["onedl-mmcv"]}-cp311-cp311-linux_x86_64.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr(member, b'compiled ops ' * 100)
    return wheel


# Pins


def test_pins_are_what_the_extra_says():
    tomllib = pytest.importorskip('tomllib')
    project = tomllib.loads((SOURCE.parents[1] / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    assert bootstrap.pinned(*bootstrap.PINS) == project['optional-dependencies']['onedl']


# Wheel cache


def test_wheel_key_names_all_that_the_binary_depends_on(monkeypatch):
    keys = {
        bootstrap.wheel_key('cpu', python=(3, 11)),
        bootstrap.wheel_key('cpu', python=(3, 12)),
        bootstrap.wheel_key('cuda-9.0', python=(3, 11)),
        bootstrap.wheel_key('cpu', bumped('torch'), (3, 11)),
        bootstrap.wheel_key('cpu', bumped('onedl-mmcv'), (3, 11)),
    }
    monkeypatch.setattr(bootstrap.platform, 'machine', lambda: 'riscv64')
    keys.add(bootstrap.wheel_key('cpu', python=(3, 11)))
    assert len(keys) == 6


def test_wheel_key_is_indifferent_to_what_mmcv_is_not_linked_to():
    assert bootstrap.wheel_key('cpu', bumped('onedl-mmdetection')) == bootstrap.wheel_key('cpu')


def test_wheel_cache_follows_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert bootstrap.wheel_cache('cpu').parent == tmp_path / 'cache' / 'mmacs' / 'wheels'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert bootstrap.wheel_cache('cpu').parent == tmp_path / '.cache' / 'mmacs' / 'wheels'


def test_a_sound_wheel_is_found(tmp_path):
    wheel = write_wheel(tmp_path)
    assert bootstrap.find_wheel(tmp_path) == wheel


@pytest.mark.parametrize('damage', ['truncated', 'flipped', 'empty'])
def test_a_damaged_wheel_is_not_found(tmp_path, damage):
    wheel = write_wheel(tmp_path)
    data = bytearray(wheel.read_bytes())
    if damage == 'truncated':
        data = data[: len(data) // 2]
    elif damage == 'flipped':  # the archive's directory stays whole: only the checksum tells
        data[data.index(b'compiled') + 3] ^= 1
    else:
        data = b''
    wheel.write_bytes(data)
    assert bootstrap.find_wheel(tmp_path) is None


def test_a_wheel_without_compiled_ops_is_not_found(tmp_path):
    write_wheel(tmp_path, member='mmcv/__init__.py')
    assert bootstrap.find_wheel(tmp_path) is None


def test_a_wheel_of_another_version_is_not_found(tmp_path):
    wheel = write_wheel(tmp_path)
    wheel.rename(tmp_path / 'onedl_mmcv-0.0.1-cp311-cp311-linux_x86_64.whl')
    assert bootstrap.find_wheel(tmp_path) is None


# Stamp


@pytest.mark.parametrize('name', bootstrap.PINS)
def test_stamp_changes_with_each_pin(name):
    assert bootstrap.stamp_of('cpu') == bootstrap.stamp_of('cpu', dict(bootstrap.PINS))
    assert bootstrap.stamp_of('cpu', bumped(name)) != bootstrap.stamp_of('cpu')


def test_stamp_changes_with_metadata_accelerator_and_place(monkeypatch, tmp_path):
    source = tmp_path / 'setup.py'
    source.write_text('one')
    stamps = {bootstrap.stamp_of('cpu', sources=[source]), bootstrap.stamp_of('cuda-9.0', sources=[source])}
    source.write_text('two')
    stamps.add(bootstrap.stamp_of('cpu', sources=[source]))
    monkeypatch.setattr(bootstrap, 'ROOT', tmp_path)
    stamps.add(bootstrap.stamp_of('cpu', sources=[source]))
    assert len(stamps) == 4


@pytest.fixture
def installs(monkeypatch, tmp_path):
    """A place without GPU, with an installer that only counts."""
    calls = []
    (tmp_path / 'python').touch()
    for name, value in {
        'STAMP': tmp_path / 'stamp',
        'PYTHON': tmp_path / 'python',
        'gpu_capabilities': list,
        'nvcc_release': str,
        'install': calls.append,
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    return calls


def test_setup_installs_once(installs):
    bootstrap.setup()
    bootstrap.setup()
    assert installs == ['cpu']


def test_setup_installs_again_when_a_pin_changes_or_venv_is_gone(installs, monkeypatch):
    bootstrap.setup()
    monkeypatch.setitem(bootstrap.PINS, 'torch', '9.9')
    bootstrap.setup()
    assert len(installs) == 2
    bootstrap.PYTHON.unlink()
    bootstrap.setup()
    assert len(installs) == 3


def test_a_failed_setup_is_not_taken_for_done(installs, monkeypatch):
    def fail(target):
        raise bootstrap.SetupError('no network')

    with monkeypatch.context() as patch, pytest.raises(bootstrap.SetupError):
        patch.setattr(bootstrap, 'install', fail)
        bootstrap.setup()
    bootstrap.setup()
    assert installs == ['cpu']


def test_half_installed_packages_are_installed_again(tmp_path):
    whole, half = tmp_path / 'whole-1.dist-info', tmp_path / 'half-1.dist-info'
    for info in (whole, half):
        info.mkdir()
        (info / 'METADATA').touch()
    (whole / 'INSTALLER').touch()
    bootstrap.drop_half_installed(tmp_path)
    assert whole.is_dir()
    assert not half.exists()


# Machine


@pytest.mark.parametrize('version', [(2, 7, 18), (3, 9, 18), (3, 14, 0)])
def test_unfit_python_is_one_sentence(monkeypatch, capsys, version):
    monkeypatch.setattr(bootstrap.sys, 'version_info', version)
    monkeypatch.setattr(bootstrap, 'setup', lambda: pytest.fail('set up with an unfit Python'))
    assert bootstrap.main(['setup']) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'Python 3.10 to 3.13 is needed' in error
    assert '.'.join(map(str, version)) in error


@pytest.mark.parametrize('version', [(3, 10, 0), (3, 11, 7), (3, 13, 2)])
def test_fit_python_is_accepted(version):
    bootstrap.check_python(version)


def test_an_old_python_can_read_the_file():
    ast.parse(SOURCE.read_text(encoding='utf-8'), feature_version=(3, 7))


def test_too_little_disk_is_refused_unless_an_earlier_setup_holds_it(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap.shutil, 'disk_usage', lambda _: bootstrap.shutil._ntuple_diskusage(50e9, 43e9, 7e9))
    venv = tmp_path / '.venv'
    with pytest.raises(bootstrap.SetupError, match='12 GB .* there are 7.0'):
        bootstrap.check_disk(venv)
    venv.mkdir()
    with (venv / 'libtorch.so').open('wb') as library:
        library.truncate(6_000_000_000)  # sparse: takes no room
    bootstrap.check_disk(venv)


def test_missing_compiler_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match='C\\+\\+ compiler'):
        bootstrap.check_compiler()


@pytest.mark.parametrize(
    'capabilities, nvcc, expected',
    [
        ([], '', 'cpu'),
        ([], '13', 'cpu'),
        (['9.0'], '', 'cpu'),
        (['9.0'], '12', 'cpu'),
        (['9.0'], '13', 'cuda-9.0'),
        (['8.0', '9.0'], '13', 'cuda-8.0+9.0'),
    ],
)
def test_cuda_ops_need_a_gpu_and_a_fitting_compiler(capabilities, nvcc, expected):
    assert bootstrap.accelerator(capabilities, nvcc) == expected


# Steps


def test_compiled_reads_ninjas_last_line(tmp_path):
    log = tmp_path / 'log'
    log.write_text('')
    assert bootstrap.compiled(log) == ''
    log.write_text('c++ -c a[3].cpp\n  [1/79] c++ -c a.cpp\n  [23/79] c++ -c b.cpp\n  warning: x[1/2]\n')
    assert bootstrap.compiled(log) == ', 23 of 79 files compiled'


def test_a_failing_step_shows_the_end_of_its_log_and_stops(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(bootstrap, 'LOGS', tmp_path)
    marker = tmp_path / 'ran on'
    with pytest.raises(bootstrap.SetupError, match=r'breaking failed with exit code 3; .*step-1\.log'):
        bootstrap.Steps(2).run('breaking', ['sh', '-c', 'echo the reason; exit 3'], ['touch', str(marker)])
    assert not marker.exists()
    shown = capfd.readouterr()
    assert shown.out.startswith('[1/2] breaking')
    assert 'the reason' in shown.err
