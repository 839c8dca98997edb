"""Sets up all that mmacs needs in ``.venv`` and runs a command there; needs nothing but git and Python itself.

    python3.11 tools/bootstrap.py demo [ARGS]    # set up, then run tools/demo.py
    python3.11 tools/bootstrap.py test [ARGS]    # set up, then run pytest
    python3.11 tools/bootstrap.py setup          # only set up
    python3.11 tools/bootstrap.py wheel-cache    # print the folder where the built mmcv wheel is kept

It may be run again at any time: it goes on after an interruption, and returns at once when nothing has changed.
The file is kept readable for Python 3.7, which must be able to say that it is too old.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
LOGS = ROOT / 'work_dirs' / 'setup'
STAMP = VENV / '.mmacs-stamp'  # what is installed, written last
ORIGIN = VENV / '.mmacs-origin'  # what .venv was made by and where, written when it can install

OLDEST, NEWEST = (3, 10), (3, 13)
DISK_GB = 12
CUDA = '13'  # the major version that the pinned torch is built with

BUILD_TOOLS = ('pip', 'setuptools>=77,<81', 'wheel', 'packaging', 'ninja')
METADATA = ('setup.py', 'pyproject.toml', 'mmacs/version.py')


def read_pins(pyproject: str) -> dict[str, str]:
    """Returns the versions that the extra ``onedl`` pins; Python before 3.11 has no reader of its own for the file."""
    extra = re.search(r'^onedl = \[$(.*?)^\]$', pyproject, re.MULTILINE | re.DOTALL).group(1)
    return dict(re.findall(r'^ *"([\w-]+)==([\w.]+)"', extra, re.MULTILINE))


PINS = read_pins((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))


class SetupError(Exception):
    """The set-up can't go on; the message says why in one sentence."""


def pinned(*names: str) -> list[str]:
    """Returns the requirements of the named packages, such as ``torch==2.11.0``."""
    return [f'{name}=={PINS[name]}' for name in names]


# What this machine is


def check_python(version: Sequence[int]) -> None:
    """Refuses a Python for which the pinned packages have no wheels."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise SetupError(
            'Python {}.{} to {}.{} is needed and this is {}: run it as, for example, '
            'python3.11 tools/bootstrap.py'.format(*OLDEST, *NEWEST, '.'.join(map(str, version[:3])))
        )


def check_disk(venv: Path) -> None:
    """Refuses a disk that is too small, where what an earlier set-up takes up counts as free."""
    free = shutil.disk_usage(venv.parent).free / 1e9
    if free < DISK_GB:
        free += sum(path.lstat().st_size for path in venv.rglob('*')) / 1e9
    if free < DISK_GB:
        raise SetupError(f'{DISK_GB} GB of free disk are needed in {venv.parent} and there are {free:.1f}')


def check_compiler() -> None:
    """Refuses a machine that lacks what builds mmcv."""
    if not compilers():
        raise SetupError('mmcv must be compiled here, which needs a C++ compiler: install g++ or clang++ first')
    if not Path(sysconfig.get_paths()['include'], 'Python.h').is_file():
        python = f'python{sys.version_info[0]}.{sys.version_info[1]}'
        raise SetupError(
            f'mmcv must be compiled here, which needs the C headers of {python}: '
            f'on Debian and Ubuntu install {python}-dev first'
        )


def compilers() -> dict[str, str]:
    """Returns ``CC`` and ``CXX`` as the environment has them or else found, empty if there are none."""
    pairs = [(os.environ.get('CC', 'cc'), os.environ.get('CXX', 'c++')), ('gcc', 'g++'), ('clang', 'clang++')]
    for cc, cxx in pairs:
        if shutil.which(cc.split()[0]) and shutil.which(cxx.split()[0]):
            return {'CC': cc, 'CXX': cxx}
    return {}


def output_of(*command: str) -> str:
    """Returns what a command prints, empty if it is missing or fails."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return ''


def gpu_capabilities() -> list[str]:
    """Returns the compute capabilities of the NVIDIA GPUs here, such as ``['9.0']``."""
    listed = output_of('nvidia-smi', '--query-gpu=compute_cap', '--format=csv,noheader')
    return sorted(set(re.findall(r'\d+\.\d+', listed)))


def nvcc_release() -> str:
    """Returns the major version of the CUDA compiler here, empty if there is none."""
    folders = [os.path.join(os.environ.get('CUDA_HOME', '/usr/local/cuda'), 'bin'), os.environ.get('PATH', '')]
    nvcc = shutil.which('nvcc', path=os.pathsep.join(folders)) or 'nvcc'
    release = re.search(r'release (\d+)', output_of(nvcc, '--version'))
    return release.group(1) if release else ''


def accelerator(capabilities: Sequence[str], nvcc: str) -> str:
    """Names what mmcv's ops are to be built for, without asking torch, which may not be installed yet.

    Args:
        capabilities: The GPUs' compute capabilities.
        nvcc: The major version of the CUDA compiler, empty if there is none.

    Returns:
        ``'cpu'``, or ``'cuda-'`` and the capabilities.
    """
    return 'cuda-' + '+'.join(capabilities) if capabilities and nvcc == CUDA else 'cpu'


# What is already there


def wheel_key(target: str, pins: Mapping[str, str] = PINS, python: Sequence[int] = sys.version_info) -> str:
    """Names all that a built mmcv wheel depends on."""
    return 'cp{}{}-torch{}-mmcv{}-{}-{}-{}'.format(
        *python[:2], pins['torch'], pins['onedl-mmcv'], sys.platform, platform.machine(), target
    )


def wheel_cache(target: str) -> Path:
    """Returns the folder in the user's cache for the mmcv wheel built for ``target``."""
    cache = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(cache, 'mmacs', 'wheels', wheel_key(target))


def is_sound(wheel: Path) -> bool:
    """Says whether a wheel is undamaged and has mmcv's compiled ops."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.testzip() is None and any(name.startswith('mmcv/_ext.') for name in archive.namelist())
    except Exception:  # a damaged archive can raise almost anything
        return False


def find_wheel(folder: Path) -> Path | None:
    """Returns the sound mmcv wheel in a folder, if there is one."""
    return next(filter(is_sound, sorted(folder.glob('onedl_mmcv-{}-*.whl'.format(PINS['onedl-mmcv'])))), None)


def stamp_of(target: str, pins: Mapping[str, str] = PINS, sources: Iterable[Path] | None = None) -> str:
    """Returns a digest of all that decides what is installed."""
    sources = [ROOT / name for name in METADATA] if sources is None else sources
    parts = [origin(), target, *(f'{name}=={version}' for name, version in sorted(pins.items()))]
    parts += [source.read_text(encoding='utf-8') for source in sources]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()


def origin() -> str:
    """Names what ``.venv`` is made by and where; one that was moved is broken, because it holds absolute paths."""
    return '\n'.join([str(ROOT), sys.base_prefix, sys.version, *BUILD_TOOLS])


def holds(path: Path, text: str) -> bool:
    """Says whether a file exists and holds exactly this text."""
    return path.is_file() and path.read_text(encoding='utf-8') == text


def drop_half_installed(site_packages: Path) -> None:
    """Removes the metadata of packages whose installation was interrupted, so that pip installs them again.

    Args:
        site_packages: Where pip installs; it writes a package's ``INSTALLER`` after all of the package's own files.
    """
    for info in site_packages.glob('*.dist-info'):
        if not (info / 'INSTALLER').is_file():
            shutil.rmtree(info)


# The steps


class Steps:
    """Runs numbered steps, shows that they are alive and keeps their logs.

    Args:
        total: How many steps there will be.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0

    def run(self, title: str, *commands: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Runs one step.

        Args:
            title: What the step does.
            *commands: The step's commands, run one after another.
            env: Their environment, by default `pip_env`.

        Raises:
            SetupError: If a command fails, whose log's end is then printed.
        """
        self.number += 1
        print(f'[{self.number}/{self.total}] {title}', flush=True)
        LOGS.mkdir(parents=True, exist_ok=True)
        log = LOGS / f'step-{self.number}.log'
        started = time.monotonic()
        with log.open('wb') as sink:
            for command in commands:
                code = self._wait(command, pip_env() if env is None else env, sink, started)
                if code:
                    break
        if code:
            print(*log.read_text(encoding='utf-8', errors='replace').splitlines()[-25:], sep='\n', file=sys.stderr)
            raise SetupError(f'{title} failed with exit code {code}; its whole log is {log}')
        self._show(f'done in {time.monotonic() - started:.0f} s', end='\n')

    def _wait(self, command: Sequence[str], env: Mapping[str, str], sink, started: float) -> int:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=dict(env), cwd=ROOT
        )
        try:
            while True:
                try:
                    return process.wait(timeout=1 if sys.stdout.isatty() else 15)
                except subprocess.TimeoutExpired:
                    minutes, seconds = divmod(int(time.monotonic() - started), 60)
                    self._show(f'{minutes}:{seconds:02d}{compiled(Path(sink.name))}')
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    @staticmethod
    def _show(text: str, end: str = '') -> None:
        if sys.stdout.isatty():
            print(f'\r\033[K      {text}', end=end, flush=True)
        else:
            print(f'      {text}', flush=True)


def compiled(log: Path) -> str:
    """Reads from ninja's lines in a log how far a build is."""
    with log.open('rb') as source:
        source.seek(-min(log.stat().st_size, 1 << 16), os.SEEK_END)
        counts = re.findall(rb'^\s*\[(\d+)/(\d+)\] ', source.read(), re.MULTILINE)
    return ', {} of {} files compiled'.format(*(count.decode() for count in counts[-1])) if counts else ''


def pip_env() -> dict[str, str]:
    """Returns the environment for pip: programs of ``.venv`` first, no packages from elsewhere."""
    env = {name: value for name, value in os.environ.items() if name not in ('PYTHONPATH', 'PYTHONHOME')}
    env.update(
        PATH=os.pathsep.join([str(PYTHON.parent), env.get('PATH', os.defpath)]),
        PYTHONNOUSERSITE='1',
        PYTHONUNBUFFERED='1',
        PIP_DISABLE_PIP_VERSION_CHECK='1',
        PIP_NO_INPUT='1',
        PIP_PROGRESS_BAR='off',
        PIP_USER='0',
    )
    return env


def build_env(target: str) -> dict[str, str]:
    """Returns the environment in which mmcv compiles its ops for ``target``, without debug symbols."""
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    env = pip_env()
    env.update(compilers(), MMCV_WITH_OPS='1', MAX_JOBS=str(max(1, min(cores, memory // 2_000_000_000))))
    for name in ('CFLAGS', 'CXXFLAGS'):  # Python's own flags hold -g; the last one wins
        env[name] = env.get(name, '') + ' -g0'
    if sys.platform == 'linux':
        env['LDFLAGS'] = env.get('LDFLAGS', '') + ' -Wl,-s'
    if target == 'cpu':  # mmcv tries CUDA ops wherever torch sees a GPU, and fails where nvcc doesn't fit
        env['CUDA_VISIBLE_DEVICES'] = ''
        env.pop('FORCE_CUDA', None)
    else:
        env['FORCE_CUDA'] = '1'
        env['TORCH_CUDA_ARCH_LIST'] = target[len('cuda-') :].replace('+', ';')
    return env


def pip(*arguments: str) -> list[str]:
    """Returns a pip command of ``.venv``."""
    return [str(PYTHON), '-m', 'pip', *arguments]


def create_venv(steps: Steps) -> None:
    """Makes ``.venv`` with what installs and builds the rest.

    It counts as made only with these, because a pip that was interrupted while it replaced itself is gone.
    """
    ORIGIN.unlink(missing_ok=True)
    python = getattr(sys, '_base_executable', None) or sys.executable  # this Python may itself be .venv's
    steps.run(
        f'creating .venv with Python {platform.python_version()}, pip and setuptools',
        [python, '-m', 'venv', '--clear', str(VENV)],
        pip('install', '--upgrade', *BUILD_TOOLS),
    )
    ORIGIN.write_text(origin(), encoding='utf-8')


def build_wheel(steps: Steps, target: str) -> Path:
    """Builds mmcv's wheel, puts it into the cache whole or not at all, and returns it."""
    cache = wheel_cache(target)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix='building-') as folder:
        build = pip('wheel', '--verbose', '--no-deps', '--no-build-isolation', '--wheel-dir', folder)
        # pip's own cache may hold a wheel built for another torch, or without ops.
        build += ['--no-cache-dir', '--no-binary', 'onedl-mmcv', *pinned('onedl-mmcv')]
        title = 'building mmcv {} for {} (once; about 10 minutes on two cores)'
        steps.run(title.format(PINS['onedl-mmcv'], target), build, env=build_env(target))
        wheel = find_wheel(Path(folder))
        if wheel is None:
            raise SetupError(f'mmcv was built without its compiled ops; the log is {LOGS}/step-{steps.number}.log')
        os.replace(wheel, cache / wheel.name)
    return cache / wheel.name


def install(target: str) -> None:
    """Brings ``.venv`` to the pinned state, whatever state it is in."""
    new = not holds(ORIGIN, origin())
    check_disk(VENV)
    wheel = find_wheel(wheel_cache(target))
    if wheel is None:
        check_compiler()
    STAMP.unlink(missing_ok=True)

    steps = Steps(total=3 + new + (wheel is None))
    if new:
        create_venv(steps)
    for site_packages in VENV.glob('lib/python*/site-packages'):
        drop_half_installed(site_packages)
    title = 'installing torch {} (about 3 GB with its libraries)'.format(PINS['torch'])
    steps.run(title, pip('install', *pinned('torch', 'torchvision', 'numpy')))
    wheel = wheel or build_wheel(steps, target)
    steps.run(
        'installing mmengine, mmcv, mmdetection, mmpretrain, runtimes and mmacs itself',
        # By force: the one that is there may have been built for another accelerator.
        pip('install', '--force-reinstall', '--no-deps', str(wheel)),
        pip('install', '--no-build-isolation', '--editable', '.[onedl,deploy,docs,test]'),
        # The OpenCV installed last provides cv2; the other one needs libGL, which servers lack.
        pip('install', '--force-reinstall', '--no-deps', *pinned('opencv-python-headless')),
    )
    steps.run(
        'checking the installation',
        pip('check'),
        [str(PYTHON), '-c', 'import cv2, mmacs, mmcv.ops, mmdet, mmpretrain; assert cv2.version.headless'],
    )


def setup() -> None:
    """Sets up ``.venv`` if it isn't already what it should be."""
    capabilities = gpu_capabilities()
    target = accelerator(capabilities, nvcc_release())
    stamp = stamp_of(target)
    if PYTHON.exists() and holds(STAMP, stamp):
        print('.venv is up to date', flush=True)
        return
    if capabilities and target == 'cpu':
        print(f"note: mmcv's ops will run on the CPU only, because there is no nvcc of CUDA {CUDA} for the GPU here")
    started = time.monotonic()
    install(target)
    STAMP.write_text(stamp, encoding='utf-8')
    print(f'set up in {time.monotonic() - started:.0f} s; source .venv/bin/activate to use it', flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('command', choices=['demo', 'test', 'setup', 'wheel-cache'])
    parser.add_argument('args', nargs=argparse.REMAINDER, help='passed on to the demo or to pytest')
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the running step is ended too
    try:
        if os.name == 'nt':
            raise SetupError('Linux or macOS is needed: on Windows use the Windows Subsystem for Linux')
        check_python(sys.version_info)
        if options.command == 'wheel-cache':
            print(wheel_cache(accelerator(gpu_capabilities(), nvcc_release())))
            return 0
        setup()
    except (SetupError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ninterrupted: the same command goes on from here', file=sys.stderr)
        return 130
    if options.command == 'demo':
        os.execv(PYTHON, [str(PYTHON), str(ROOT / 'tools' / 'demo.py'), *options.args])
    if options.command == 'test':
        os.chdir(ROOT)
        # Tests side by side, each on one thread: threads of several processes would only wait for each other.
        workers = ['-n', str(min(os.cpu_count() or 1, 8)), '--dist', 'worksteal']
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        os.execv(PYTHON, [str(PYTHON), '-m', 'pytest', *workers, *(options.args or ['-q'])])
    return 0


if __name__ == '__main__':
    sys.exit(main())
