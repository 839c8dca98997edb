"""How the commands under ``tools/`` answer a user's mistake: with one sentence.

Imports no framework by itself, so that a missing one is such a mistake too.
"""

import inspect
import os
import re
import sys
import traceback
from pickle import UnpicklingError
from types import TracebackType
from typing import Any, Callable, Iterator, List, Optional, Tuple

from mmacs.utils.compat import check_frameworks
from mmacs.utils.errors import MmacsError, printable, unknown_name, unknown_setting


def run(main: Callable[[], None]) -> None:
    """Run a command; answer a user's mistake with one sentence on stderr and exit status 1, without a traceback.

    Other exceptions keep their traceback: they are bugs. Checkpoints are loaded with ``weights_only=True`` whatever
    the caller of ``torch.load`` asks for.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'  # for what loads past MMEngine
    try:
        check_frameworks()
        from mmacs.utils.checkpoints import guard_loading  # here, so that a missing framework is one sentence

        guard_loading()
        main()
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            sys.excepthook = _print_escaped
            raise
        print(f'error: {printable(sentence)}', file=sys.stderr)
        sys.exit(1)


def _print_escaped(kind: type, error: BaseException, trace: Optional[TracebackType]) -> None:
    """Print a traceback, whose message may hold what a file says, line by line, without control characters."""
    for line in ''.join(traceback.format_exception(kind, error, trace)).splitlines():
        print(printable(line), file=sys.stderr)


def explain(error: BaseException) -> Optional[str]:
    """One sentence about an exception that a user can put right, None for any other."""
    # Data loader workers and MMEngine's builders put text of their own around the message.
    message = re.sub(r'^class `\w+` in \S+?: ', '', str(error).strip())
    if message.startswith('Caught '):
        message = message.splitlines()[-1]
    unregistered = re.match(r"""['"]?(\S+) is not in the (?:\S+::)?(.+?) registry""", message)
    if unregistered:
        name, registry = unregistered.groups()
        return str(unknown_name(registry, name, _registered(registry)))
    argument = re.search(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'", message)
    if argument:
        caller = re.search(r'(\w+)\.__init__\(\)', message) or argument
        return _unknown_argument(caller.group(1), argument.group(2))
    if isinstance(error, RecursionError) and '_parse_iterable' in ''.join(traceback.format_tb(error.__traceback__)):
        return (
            '--cfg-options reads numbers, words and lists of them: give the keys of a dict one by one, as in '
            'a.b.c=value, or write it into a config (a recipe also into a JSON file: model.recipe=recipe.json)'
        )
    if isinstance(error, TypeError) and 'because model is a dict in the child config' in message:
        return (
            "the config's model names its type, and its settings stand beside it: write model.backbone and the like "
            'in place of model.model.backbone'
        )
    if isinstance(error, UnpicklingError):
        culprit = re.search(r'GLOBAL (\S+)', message)
        return (
            'the checkpoint is damaged, or holds something other than weights and plain values'
            f'{f" ({culprit.group(1)})" if culprit else ""}, and is not loaded'
        )
    if isinstance(error, (MmacsError, FileNotFoundError, ModuleNotFoundError)) or 'failed to load image' in message:
        return message
    return None


def _registries(registry_name: Optional[str] = None) -> Iterator[Tuple[str, Any]]:
    """MMEngine's registries, and their children and ours: pairs of scope and registry."""
    import mmengine.registry

    import mmacs.registry

    for module in (mmengine.registry, mmacs.registry):
        for registry in vars(module).values():
            if isinstance(registry, mmengine.registry.Registry) and registry_name in (None, registry.name):
                yield registry.scope, registry
                yield from registry.children.items()


def _registered(registry_name: str) -> List[str]:
    """Returns the names in all registries of one kind; those of mmacs with their scope."""
    return [
        f'mmacs.{name}' if scope == 'mmacs' else name
        for scope, registry in _registries(registry_name)
        for name in registry.module_dict
    ]


def _unknown_argument(class_name: str, argument: str) -> str:
    """Returns a sentence about a setting that a registered class does not have, with the closest that it has."""
    for _, registry in _registries():
        for name, registered in registry.module_dict.items():
            if class_name in (name, registered.__name__):
                return str(unknown_setting(name, argument, inspect.signature(registered).parameters))
    return str(unknown_setting(class_name, argument, ()))
