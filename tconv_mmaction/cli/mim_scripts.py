"""Run a script that mmaction2 installs (``mmaction/.mim/tools``), with this package imported first.

Our ``tools/train.py`` and ``tools/test.py`` are mmaction2's own, so that their options never drift apart; scripts that
import no component, such as ``deployment/publish_model.py``, get :mod:`tconv_mmaction.compat` this way.
"""
import contextlib
import difflib
import functools
import runpy
import sys
from pathlib import Path
from typing import Any, Iterator, List, Sequence

import mmaction
from mmengine.runner import FlexibleRunner, Runner

from ..compat import checkpoints, script_libraries
from ..setup_checks.config_file import explained_configs
from . import console

CHECKED = {'train.py': 'train', 'test.py': 'test'}  # scripts whose config is checked first, and for what


def scripts_folder() -> Path:
    """The folder of mmaction2's scripts: ``.mim/tools`` of an installed one, ``tools`` beside a checkout.

    Raises:
        FileNotFoundError: if neither is there.
    """
    package = Path(mmaction.__file__).parent
    for folder in (package / '.mim/tools', package.parent / 'tools'):
        if (folder / 'train.py').is_file() and (folder / 'deployment').is_dir():
            return folder
    raise FileNotFoundError(
        f"mmaction2's scripts are neither in {package / '.mim/tools'} nor in {package.parent / 'tools'}. A released "
        'mmaction2 brings them: pip install --force-reinstall --no-deps "mmaction2>=1.2.0,<1.3"')


def available_scripts() -> List[str]:
    """Every script, as a path relative to :func:`scripts_folder`."""
    folder = scripts_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.py'))


def with_class_report(cfg: Any) -> Any:
    """The config with a :class:`~tconv_mmaction.metrics.ClassReport` after its own test metrics; in its work_dir."""
    evaluator = cfg.get('test_evaluator')
    metrics = [evaluator] if isinstance(evaluator, dict) else list(evaluator or ())
    if not metrics or any(isinstance(metric, dict) and metric.get('type') == 'ClassReport' for metric in metrics):
        return cfg
    cfg = cfg.copy()
    cfg.test_evaluator = [*metrics, dict(type='ClassReport', out_dir=cfg.get('work_dir'), _scope_='mmaction')]
    return cfg


@contextlib.contextmanager
def checked_setup(mode: str) -> Iterator[None]:
    """Inside, a Runner is built from a config only after :func:`.setup_checks.check_once` has passed it.

    A Runner for a test reports on every class, and shows a progress bar on a terminal.
    """
    from ..setup_checks import check_once
    originals = {runner: vars(runner)['from_cfg'] for runner in (Runner, FlexibleRunner)}

    def checking(original: Any) -> Any:
        @functools.wraps(original.__func__)
        def from_cfg(cls: type, cfg: Any) -> Any:
            check_once(cfg, mode)
            if mode != 'test':
                return original.__func__(cls, cfg)
            runner = original.__func__(cls, with_class_report(cfg))
            if console.bar_wanted():
                runner.register_hook(console.ProgressHook())
            return runner
        return classmethod(from_cfg)

    for runner, original in originals.items():
        runner.from_cfg = checking(original)
    try:
        yield
    finally:
        for runner, original in originals.items():
            runner.from_cfg = original


def run_script(name: str, arguments: Sequence[str]) -> None:
    """Run the script as ``python NAME ARGUMENTS`` would, in this process.

    A checkpoint that the script loads by itself is read with weights_only on, and a refusal names the file. What
    train.py and test.py are going to use of the config is checked before anything is built, and their console is brief
    (:mod:`.console`), unless ``--verbose`` is among their arguments.

    Args:
        name: path relative to :func:`scripts_folder`, such as ``deployment/publish_model.py``.
        arguments: what follows it on the command line.

    Raises:
        FileNotFoundError: if there is no such script; the message lists the nearest names.
        SetupError: if the config or its files are wrong.
    """
    path = scripts_folder() / name
    if not path.is_file():
        by_name = {Path(script).name: script for script in available_scripts()}
        near = [by_name[match] for match in difflib.get_close_matches(Path(name).name, by_name, n=3)]
        meant = f' Did you mean {" or ".join(near)}?' if near else ''
        raise FileNotFoundError(f'mmaction2 has no script {name!r} in {scripts_folder()}.{meant}')
    argv, search_path = sys.argv, list(sys.path)
    verbose = name not in CHECKED or '--verbose' in arguments
    sys.argv = [str(path), *(word for word in arguments if word != '--verbose' or name not in CHECKED)]
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(checkpoints.guarded_torch_load())
            stack.enter_context(script_libraries.available(path))
            if name in CHECKED:
                stack.enter_context(explained_configs())
                stack.enter_context(checked_setup(CHECKED[name]))
            if not verbose:
                stack.enter_context(console.brief(bar=CHECKED[name] == 'test' and console.bar_wanted()))
            runpy.run_path(str(path), run_name='__main__')
    except SystemExit:
        if name in CHECKED and {'-h', '--help'} & set(arguments):
            print('\nand of tconv_mmaction:\n  --verbose             show the whole log on the console too')
        raise
    finally:
        sys.argv, sys.path[:] = argv, search_path
