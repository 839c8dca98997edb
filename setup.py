"""Packages mmacs, with its configs and tools where MMEngine looks for them (``mmacs/.mim``)."""

import os
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_FOLDERS = ('configs', 'tools')


class BuildPyWithMim(build_py):
    """Adds ``mmacs/.mim``: links to the originals in an editable install, copies otherwise."""

    def run(self) -> None:
        """Builds the package, then adds the folders."""
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmacs' / '.mim'
        mim.mkdir(parents=True, exist_ok=True)
        # MMEngine reads this index before any `mmacs::folder/config.py`, though it may be empty.
        (mim / 'model-index.yml').write_text('Import: []\n', encoding='utf-8')
        for name in MIM_FOLDERS:
            target = mim / name
            if target.is_symlink():
                target.unlink()
            elif target.is_dir():  # of an earlier build; it may hold files that are gone by now
                shutil.rmtree(target)
            if self.editable_mode and os.name != 'nt':
                target.symlink_to(Path('..', '..', name), target_is_directory=True)
            else:
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]'))


def read_version() -> str:
    """Reads the version without importing the package, which needs torch."""
    return runpy.run_path(str(ROOT / 'mmacs' / 'version.py'))['__version__']


def read_pins() -> list:
    """Reads the pinned versions of the OpenMMLab stack.

    Installing them by pip alone gives an mmcv without compiled ops, which only ``tools/bootstrap.py`` builds.
    """
    pins = runpy.run_path(str(ROOT / 'tools' / 'bootstrap.py'))['PINS']
    return [f'{name}=={version}' for name, version in pins.items()]


def read_readme() -> str:
    """Reads the long description."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


EXTRAS = {
    'onedl': read_pins(),
    'test': ['pytest', 'pytest-xdist', 'hypothesis', 'ruff>=0.17,<0.18'],
}

setup(
    name='mmacs',
    version=read_version(),
    description='Low-bit quantization-aware training of OpenMMLab models on an adaptively selected coreset',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='The mmacs authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmacs', 'mmacs.*']),
    include_package_data=True,
    # Not MMDetection and its like: upstream's and the onedl distributions both provide them, and exclude each other.
    install_requires=[
        'torch>=2.1',
        'torchvision',
        'numpy',
        'scipy>=1.12',
        'matplotlib',
        'rich',
        'pycocotools',
        'jinja2',
        'pillow',
    ],
    extras_require={**EXTRAS, 'all': sum(EXTRAS.values(), [])},
    cmdclass={'build_py': BuildPyWithMim},
    zip_safe=False,
)
