"""Configs that a package brings along, by names such as ``'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'``."""

from pathlib import Path
from typing import NamedTuple, Optional

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.hub import get_config
from mmengine.utils import get_installed_path, is_installed

from mmacs.utils.errors import MmacsError, unknown_name
from mmacs.utils.files import nearest_file


class PackagedConfig(NamedTuple):
    """A config, and the URL of the weights that the package publishes for it, None if it knows none."""

    config: Config
    weights: Optional[str]


def packaged_config(name: str) -> PackagedConfig:
    """Returns a config of an installed package.

    MMEngine would install a package that is missing; here that is left to the user.

    Args:
        name (str): Package and path, ``'mmdet::...'``.

    Raises:
        MmacsError: If there is none, or its package is not installed; the message has the nearest name.
    """
    package, _, path = name.partition('::')
    if package not in MODULE2PACKAGE:
        raise unknown_name('package of configs', package, MODULE2PACKAGE)
    if not is_installed(MODULE2PACKAGE[package]):
        raise MmacsError(f'{name} is a config of {package}, which is not installed')
    try:
        cfg = get_config(name, pretrained=True)
    except AssertionError:  # no weights are published for it
        cfg = get_config(name)
    except (FileNotFoundError, ValueError) as error:
        configs = Path(get_installed_path(MODULE2PACKAGE[package])) / '.mim' / 'configs'
        near = nearest_file(configs / path)
        hint = '' if near is None else f", did you mean '{package}::{near.relative_to(configs).as_posix()}'?"
        raise MmacsError(f'no such config: {name}{hint}') from error
    return PackagedConfig(cfg, cfg._cfg_dict.pop('model_path', None))
