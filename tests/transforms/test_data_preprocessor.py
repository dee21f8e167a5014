"""ActionDataPreprocessor: the numbers of mmaction2's, copies that do not wait; every loader of our configs pins."""
import pytest
import torch
from helpers.paths import ROOT
from mmaction.models.data_preprocessors import ActionDataPreprocessor as Theirs
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config

SETTINGS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], format_shape='NCTHW')


class Recorded(torch.Tensor):
    """Remembers with what ``to`` is called."""

    calls = []

    def to(self, *args, **kwargs):
        self.calls.append(kwargs)
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize('non_blocking', [True, False, None])
def test_copies(non_blocking):
    more = {} if non_blocking is None else dict(non_blocking=non_blocking)
    ours = MODELS.build(dict(type='ActionDataPreprocessor', **SETTINGS, **more))
    clip = torch.randint(0, 256, (1, 3, 4, 8, 8), dtype=torch.uint8)
    expected = Theirs(**SETTINGS)(dict(inputs=[clip], data_samples=[ActionDataSample()]))['inputs']
    Recorded.calls.clear()
    given = ours(dict(inputs=[clip.as_subclass(Recorded)], data_samples=[ActionDataSample()]))['inputs']
    assert torch.equal(given, expected) and Recorded.calls == [dict(non_blocking=non_blocking in (True, None))]


def test_loaders_of_our_configs_pin():
    checked = 0
    paths = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base' not in str(path))
    for path in paths[::5]:  # of every data set some
        config = Config.fromfile(path, import_custom_modules=False)
        for split in ('train', 'val', 'test'):
            assert config[f'{split}_dataloader'].get('pin_memory') is True, (path, split)
            checked += 1
    assert checked > 30
