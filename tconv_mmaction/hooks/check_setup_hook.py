"""Look at data lists, model and settings before the first iteration, and keep paths inside their folder."""
from typing import Any, Iterator, Sequence, Union

from mmaction.registry import HOOKS, TRANSFORMS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from ..setup_checks import SetupError, check_built_batches, check_config, take_passed
from ..setup_checks.lists import joined
from ..setup_checks.problems import Problem
from ..utils.confinement import roots_of


def _built(dataset: Any, key: str) -> Iterator[tuple]:
    """(data set, key) of every data set inside wrappers."""
    if hasattr(dataset, 'datasets'):
        for i, inner in enumerate(dataset.datasets):
            yield from _built(inner, f'{key}.datasets.{i}')
    elif hasattr(dataset, 'dataset'):
        yield from _built(dataset.dataset, f'{key}.dataset')
    else:
        yield dataset, key


@HOOKS.register_module()
class CheckSetupHook(Hook):
    """Stops before anything is trained or tested, with every mistake in the config and its lists at once.

    What is checked stands in docs/reliability/bad_inputs.md. It takes about a second; it reads annotation lists as
    text, opens a few of their files for the size of the frames, and passes clips without content through the
    transforms and the network. What runs to its end and is probably not meant is a warning in the log. tools/train.py
    and tools/test.py make the same check even earlier, where a wrong list would keep the data set from being built.

    Our configs have it: ``default_hooks=dict(check_setup=dict(type='CheckSetupHook'))``. Off:
    ``--cfg-options default_hooks.check_setup=None``.

    Args:
        duplicates: allow lists that name the same video twice with the same label.
        confine_paths: True refuses files outside of a data set's ``data_root`` (without one: of its ``data_prefix``),
            symbolic links followed; a folder or a list of folders allows those instead. Every line is looked at here,
            and every file again right before it is opened (``ConfinePaths``), since files change.

    Raises:
        SetupError: (a ValueError) with the keys or lines, values and ways out.
    """

    priority = 'VERY_HIGH'

    def __init__(self, duplicates: bool = False, confine_paths: Union[bool, str, Sequence[str]] = False) -> None:
        for name, value, kinds in (('duplicates', duplicates, (bool, )),
                                   ('confine_paths', confine_paths, (bool, str, list, tuple))):
            if not isinstance(value, kinds):
                raise TypeError(f'CheckSetupHook: {name} must be one of {[kind.__name__ for kind in kinds]}, got '
                                f'{value!r}.')
        self.duplicates, self.confine_paths = duplicates, confine_paths

    def before_run(self, runner: Runner) -> None:
        """Check the config, if the tool has not, and the data sets that were built."""
        loops = {mode: loop for mode in ('train', 'val', 'test')
                 for loop in [getattr(runner, f'_{mode}_loop')] if isinstance(loop, BaseLoop)}
        mode = next(iter(loops), None)
        if mode is None:
            return
        if runner.cfg.get('model') is not None:
            found = take_passed(runner.cfg, mode)
            if found is None:
                found = check_config(runner.cfg, mode, self.duplicates, self.confine_paths)
            for warning in found.warnings:
                runner.logger.warning(f'CheckSetupHook: {warning.key}: {warning.text}')
            for note in found.notes:
                runner.logger.info(f'CheckSetupHook could not check {note}.')
        for split, loop in loops.items():
            for dataset, key in _built(loop.dataloader.dataset, f'{split}_dataloader.dataset'):
                self._check_built(dataset, key)
        if 'train' in loops and runner.cfg.get('model') is not None:
            check_built_batches(runner.cfg, len(loops['train'].dataloader.dataset))
        runner.logger.info('CheckSetupHook: data lists, model and settings fit together.')

    def _check_built(self, dataset: Any, key: str) -> None:
        if hasattr(dataset, '__len__') and len(dataset) == 0:
            raise SetupError([Problem(key, f'{type(dataset).__name__} has no entries. Check its list and filters.')])
        prefixes = getattr(dataset, 'data_prefix', None) or {}
        transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', None)
        if not self.confine_paths or transforms is None or not {'video', 'img'} & set(prefixes):
            return
        data_root = getattr(dataset, 'data_root', None)
        folder = joined(data_root, prefixes.get('video', prefixes.get('img')) or '')
        guard = TRANSFORMS.build(dict(type='ConfinePaths', roots=list(
            roots_of(self.confine_paths, data_root, folder))))
        guarded = [guard]
        for transform in transforms:
            guarded += [guard, transform] if type(transform).__name__ == 'RawFrameDecode' else [transform]
        transforms[:] = guarded
