"""Where an installed package lies: ``mmaction::`` and ``tconv_mmaction::`` in configs, and what mmengine.hub loads.

mmengine up to 0.10.7 asks ``pkg_resources``, which setuptools 82 no longer brings, and which does not know where an
editable install lies. It also knows a closed list of packages. Here ``importlib`` is asked, and this package is on the
list.
"""
import functools
import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

OURS = 'tconv_mmaction'


def _distribution(package: str) -> Any:
    try:
        return metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None


def package2module(package: str) -> str:
    """The folder that a distribution installs, such as ``mmcv`` for ``mmcv-full``.

    Raises:
        ValueError: if it installs none or several, or is not installed.
    """
    distribution = _distribution(package)
    names = [] if distribution is None else (distribution.read_text('top_level.txt') or '').split()
    if not names:
        raise ValueError(f'cannot tell which folder {package} installs: '
                         + ('it is not installed' if distribution is None else 'its metadata has no top_level.txt'))
    return names[0]


def is_installed(package: str) -> bool:
    """Whether there is a distribution or an importable package (no namespace package) of that name."""
    if _distribution(package) is not None:
        return True
    spec = _spec(package)
    return spec is not None and spec.origin is not None


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):  # the parent of a dotted name, or a module that was run as __main__
        return None


def get_installed_path(package: str) -> str:
    """The folder of an installed package, given the name of its folder or of its distribution.

    >>> import mmaction, os
    >>> get_installed_path('mmaction2') == get_installed_path('mmaction') == os.path.dirname(mmaction.__file__)
    True

    Raises:
        importlib.metadata.PackageNotFoundError: if there is none.
        RuntimeError: for a namespace package, which lies in no one folder.
    """
    spec = _spec(package)
    if spec is None and _distribution(package) is not None:
        spec = _spec(package2module(package))
    if spec is None:
        raise metadata.PackageNotFoundError(package)
    if spec.origin is None:
        raise RuntimeError(f'{package} is a namespace package and lies in no one folder')
    return str(Path(spec.origin).parent)


_REPLACED: Dict[str, Callable] = dict(package2module=package2module, is_installed=is_installed,
                                      get_installed_path=get_installed_path)


def _replace(package_utils: Any) -> bool:
    """Put ours wherever mmengine holds its own; False if its own do without pkg_resources."""
    theirs = {name: getattr(package_utils, name) for name in _REPLACED}
    if not any('pkg_resources' in function.__code__.co_names for function in theirs.values()):
        return False
    for module_name, module in list(sys.modules.items()):
        if module_name.partition('.')[0] == 'mmengine':
            for name, function in theirs.items():
                if vars(module).get(name) is function:
                    setattr(module, name, _REPLACED[name])
    return True


def _wrap_cfg_path(original: Callable) -> Callable:
    """``Config._get_cfg_path`` without a scope for configs of ours: they take the scope of whoever uses them.

    With a scope of its own, every ``type`` in them would be looked up in registries of that name. There are none.
    """

    @functools.wraps(original)
    def _get_cfg_path(cfg_path: str, filename: str) -> Tuple[str, Any]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == OURS else scope

    return _get_cfg_path


def apply() -> Tuple[bool, str]:
    """Find packages without pkg_resources, and add this one to mmengine's list of packages with configs."""
    import mmengine.config.config
    import mmengine.hub  # noqa: F401  holds a name of its own for get_installed_path
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import package_utils
    MODULE2PACKAGE.setdefault(OURS, OURS)
    mmengine.config.Config._get_cfg_path = staticmethod(_wrap_cfg_path(mmengine.config.Config._get_cfg_path))
    how = ' without pkg_resources' if _replace(package_utils) else ''
    return True, f'{OURS}:: in configs; packages are found{how}'
