"""Unpack CIFAR-10 for the configs: ``python tools/prepare_cifar10.py FOLDER_WITH_ZIPS``.

``--per-class 1000 --out data/cifar10_pool`` draws a pool of 10,000 training images, always the same, for comparisons.
``train.zip`` and ``test.zip`` hold losslessly packed images as ``<split>/<class>/<name>.webp`` or ``.png``. Those who
have, or can download, the original batches need no preparation: see configs/cifar_resnet/resnet20_cifar10.py.
"""

import argparse
import random
import re
import tempfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Optional, Set

from mmpretrain.datasets.categories import CIFAR10_CATEGORIES

from mmacs import cli
from mmacs.utils.errors import MmacsError

IMAGES_PER_CLASS = {'train': 5000, 'test': 1000}
SUFFIXES = ('.webp', '.png')


def main() -> None:
    """Parse the options, unpack both splits."""
    parser = argparse.ArgumentParser(description='Unpack CIFAR-10 from train.zip and test.zip')
    parser.add_argument('src', type=Path, help='folder that holds train.zip and test.zip')
    parser.add_argument('--out', type=Path, default=Path('data/cifar10'), help='folder to make; default: %(default)s')
    parser.add_argument('--per-class', type=int, help='training images to draw of each class; default: all')
    args = parser.parse_args()
    most = IMAGES_PER_CLASS['train']
    if args.per_class is not None and not 1 <= args.per_class <= most:
        raise MmacsError(f'--per-class must be from 1 to {most}, got {args.per_class}')
    for split in IMAGES_PER_CLASS:
        try:
            made = unpack(args.src / f'{split}.zip', args.out / split, args.per_class if split == 'train' else None)
        except OSError as error:
            raise MmacsError(f'cannot unpack {args.src / split}.zip: {error}') from error
        print(f'{args.out / split}: {"unpacked" if made else "already there"}')


def unpack(archive: Path, target: Path, per_class: Optional[int] = None) -> bool:
    """Unpack one split beside ``target`` and move it there when it is whole.

    Args:
        archive (Path): ``train.zip`` or ``test.zip``.
        target (Path): Folder to make.
        per_class (int, optional): Images to draw of each class; None for all.

    Returns:
        bool: False if ``target`` already holds the images.

    Raises:
        MmacsError: If the archive is not a split of CIFAR-10, or ``target`` holds something else.
    """
    if not archive.is_file():
        raise MmacsError(f'{archive} is missing: it should hold {archive.stem}/<class>/<name>.webp')
    try:
        with zipfile.ZipFile(archive) as images:
            names = drawn(image_names(images, archive), per_class)
            if target.exists():
                files = [path for path in target.glob('*/*') if path.suffix in SUFFIXES]
                if {f'{archive.stem}/{path.parent.name}/{path.name}' for path in files} != names:
                    raise MmacsError(f'{target} is there but does not hold what {archive} does: move it away')
                return False
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f'.{target.name}-', dir=target.parent) as scratch:
                images.extractall(scratch, sorted(names))
                Path(scratch, archive.stem).rename(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last if it is encrypted
        raise MmacsError(f'{archive} is damaged or not a zip file: {error}') from error
    return True


def drawn(names: Set[str], per_class: Optional[int]) -> Set[str]:
    """Returns as many images of each class, always the same; all for None."""
    if per_class is None:
        return names
    stream = random.Random(0)
    classes = (sorted(name for name in names if f'/{one}/' in name) for one in sorted(CIFAR10_CATEGORIES))
    return {name for ordered in classes for name in stream.sample(ordered, per_class)}


def image_names(images: zipfile.ZipFile, archive: Path) -> Set[str]:
    """Names in the archive, checked to be those of a whole split and to stay within its folder."""
    split = archive.stem
    names = {name for name in images.namelist() if not name.endswith('/')}
    pattern = re.compile(rf'{split}/({"|".join(CIFAR10_CATEGORIES)})/[\w-]+({"|".join(map(re.escape, SUFFIXES))})')
    counts: Counter = Counter()
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            raise MmacsError(f'{archive} holds {name!r}, which is not {split}/<class of CIFAR-10>/<name>.webp or .png')
        counts[match[1]] += 1
    for name in CIFAR10_CATEGORIES:
        if counts[name] != IMAGES_PER_CLASS[split]:
            raise MmacsError(f'{archive} holds {counts[name]} images of {name}, not {IMAGES_PER_CLASS[split]}')
    return names


if __name__ == '__main__':
    cli.run(main)
