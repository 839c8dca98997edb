"""Adds to a build what `pyproject.toml` cannot say: ``mmacs/.mim``, where MMEngine looks for configs and tools."""

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = ('configs', 'tools', 'model-index.yml')


class BuildPyWithMim(build_py):
    """Adds ``mmacs/.mim``, of links in an editable install."""

    def run(self) -> None:
        """Builds the package, then adds the rest."""
        links = self.editable_mode and os.name != 'nt'
        if not self.editable_mode:  # what an earlier build left there may be gone from the sources
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        mim = (ROOT if self.editable_mode else Path(self.build_lib)) / 'mmacs' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir()
        for name in MIM:
            source, target = ROOT / name, mim / name
            if links:
                target.symlink_to(Path('..', '..', name), target_is_directory=source.is_dir())
            elif source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.py[co]'))
            else:
                shutil.copy(source, target)


setup(cmdclass={'build_py': BuildPyWithMim})
