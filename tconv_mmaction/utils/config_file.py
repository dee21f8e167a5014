"""Reading a config file, with one message where it cannot be read.

MMEngine reads a config by parsing and running it, so a missing base, an open bracket or a module that is not installed
end in tracebacks of its own code.
"""
import os
from typing import Any, Callable

from mmengine.config import Config

ENDINGS = ('.py', '.json', '.yml', '.yaml')


class ConfigError(ValueError):
    """A config that cannot be read."""


def why_unreadable(path: str, error: Exception) -> str:
    """What is wrong with a config whose reading raised ``error``, and what to do."""
    if os.path.isdir(path):
        return f'{path} is a folder, not a config. Give a file in it.'
    if not os.path.isfile(path):
        return (f'{path} is not there. Give the path of a config, such as one of configs/recognition/. Relative paths '
                f'count from {os.getcwd()}.')
    if not path.endswith(ENDINGS):
        return f'{path} is no config by its ending; configs are {", ".join(ENDINGS)}.'
    if isinstance(error, FileNotFoundError):
        return (f'{path}: its _base_ {error.filename or error} is not there. Paths in _base_ count from the folder of '
                'the config that names them; copy the bases along with a config.')
    if isinstance(error, SyntaxError):
        return f'{path} is no Python: {error.msg}, line {error.lineno}. Correct it there.'
    if isinstance(error, ImportError):
        first = str(error).split(', the current sys.path')[0]
        return (f'{path}: {first}. A module in custom_imports must be installed, or be in a folder that PYTHONPATH '
                'names.')
    reason = (str(error).splitlines() or ['no further reason'])[0]
    return (f'{path} cannot be read: {type(error).__name__}: {reason}. A '
            'config is run from its first line to its last, and every name in it must have been set before.')


def read_config(path: Any, read: Callable[..., Config] = Config.fromfile, **options: Any) -> Config:
    """``Config.fromfile``.

    Args:
        path: of the config.
        read: what reads it, called with the path and ``options``.

    Raises:
        ConfigError: a ValueError that says what is wrong with the file.

    Example:
        >>> read_config('no/such.py')
        Traceback (most recent call last):
        tconv_mmaction.utils.config_file.ConfigError: no/such.py is not there. Give the path of a config, ...
    """
    try:
        return read(path, **options)
    except ConfigError:
        raise
    except Exception as error:  # what a config does when it is run is anything
        raise ConfigError(why_unreadable(str(path), error)) from error
