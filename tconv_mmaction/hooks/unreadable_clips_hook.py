"""Says with every validation and test result how many of its clips could not be read, and which."""
from typing import Any, Dict, Iterator, Optional, Sequence

from mmaction.registry import HOOKS
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..datasets import TolerantVideoDataset

KEY = 'unreadable_clips'


def _inner(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from _inner(part)
    elif hasattr(dataset, 'dataset'):
        yield from _inner(dataset.dataset)
    else:
        yield dataset


@HOOKS.register_module()
class UnreadableClipsHook(Hook):
    """For ``TolerantVideoDataset(unreadable_in_test='wrong')``: adds ``unreadable_clips`` to the metrics.

    The number is that of this very evaluation, over all processes; a clip that a distributed sampler deals twice counts
    once. The log names every one of them behind the metrics. Data sets without the option are left alone.

    Our configs have it: ``default_hooks=dict(unreadable_clips=dict(type='UnreadableClipsHook'))``.

    Raises:
        RuntimeError: before the metrics are shown, if a head has given such a clip a score past ``set_pred_score``, so
            that it may have counted as right.
    """

    priority = 'HIGHEST'  # before RuntimeInfoHook, which hands the metrics to the log

    def __init__(self) -> None:
        self._found: Dict[int, Dict[str, Any]] = {}

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to count."""
        self._found = {}

    before_test_epoch = before_val_epoch

    def _after_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                    outputs: Optional[Sequence[Any]] = None, mode: str = 'val') -> None:
        if mode == 'train':
            return
        for sample in outputs or ():
            failure = getattr(sample, 'metainfo', {}).get('unreadable')
            if failure is None:
                continue
            if not getattr(sample, 'scored_wrong', False):
                raise RuntimeError(
                    f'{failure["file"]} cannot be read and has to count as wrong, but the network returned '
                    f'{type(sample).__name__} without a call of its set_pred_score. Take the file from the list, or '
                    'set unreadable_in_test="error" and repair it.')
            self._found[failure['index']] = failure

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Add the number to the metrics and name the clips."""
        self._report(runner, runner.val_dataloader.dataset, metrics)

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, float]] = None) -> None:
        """Add the number to the metrics and name the clips."""
        self._report(runner, runner.test_dataloader.dataset, metrics)

    def _report(self, runner: Runner, dataset: Any, metrics: Optional[Dict[str, float]]) -> None:
        tolerant = [part for part in _inner(dataset) if isinstance(part, TolerantVideoDataset)
                    and part.unreadable_in_test == 'wrong']
        if not tolerant:
            return
        found = {index: failure for rank in all_gather_object(self._found) for index, failure in rank.items()}
        if metrics is not None:
            metrics[KEY] = len(found)
        if found:
            lines = [f'  {failure["file"]}: {failure["reason"]}' for _, failure in sorted(found.items())]
            runner.logger.warning('\n'.join([
                f'{len(found)} of the {len(dataset)} clips of this result could not be read and count as wrong in it:',
                *lines]))
