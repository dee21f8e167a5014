"""ActionDataPreprocessor: the numbers of mmaction2's, copies that do not wait; every loader of our configs pins."""
import pytest
import torch
from helpers.paths import ROOT
from mmaction.models.data_preprocessors import ActionDataPreprocessor as Theirs
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.registry import FUNCTIONS

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


def test_a_stacked_batch_gives_the_same():
    clips = [torch.randint(0, 256, (1, 3, 4, 8, 8), dtype=torch.uint8) for _ in range(3)]
    samples = [dict(inputs=clip, data_samples=ActionDataSample()) for clip in clips]
    ours = MODELS.build(dict(type='ActionDataPreprocessor', **SETTINGS))
    batch = FUNCTIONS.get('stacked_collate')(samples)
    assert batch['inputs'].shape == (3, 1, 3, 4, 8, 8) and len(batch['data_samples']) == 3
    expected = Theirs(**SETTINGS)(dict(inputs=clips, data_samples=[ActionDataSample() for _ in clips]))['inputs']
    assert torch.equal(ours(batch)['inputs'], expected)
    samples[1]['inputs'] = torch.zeros(1, 3, 2, 8, 8)
    assert isinstance(FUNCTIONS.get('stacked_collate')(samples)['inputs'], list)  # mmaction2 pads those


def test_a_batch_keeps_the_order_of_its_clips_in_memory():
    frames = [torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8) for _ in range(3)]
    clips = [f.permute(3, 0, 1, 2)[None] for f in frames]  # (1, 3, 4, 6, 5), as FormatShape makes them
    stack = FUNCTIONS.get('stacked_collate')
    batch = stack([dict(inputs=clip) for clip in clips])['inputs']
    assert torch.equal(batch, torch.stack(clips)) and batch.stride()[2:] == clips[0].stride()[1:]
    mixed = [clips[0], clips[1].contiguous(), clips[2]]
    assert torch.equal(stack([dict(inputs=clip) for clip in mixed])['inputs'], torch.stack(clips))
    cut = [clip[..., ::2] for clip in clips]  # parts of a larger tensor
    assert torch.equal(stack([dict(inputs=clip) for clip in cut])['inputs'], torch.stack(cut))
    normal = MODELS.build(dict(type='ActionDataPreprocessor', **SETTINGS))(
        dict(inputs=batch, data_samples=[ActionDataSample() for _ in clips]))['inputs']
    assert normal.is_contiguous()  # what networks get is as it was


def test_loaders_of_our_configs_pin():
    checked = 0
    paths = sorted(path for path in (ROOT / 'configs').rglob('*.py') if '_base' not in str(path))
    for path in paths[::5]:  # of every data set some
        config = Config.fromfile(path, import_custom_modules=False)
        for split in ('train', 'val', 'test'):
            assert config[f'{split}_dataloader'].get('pin_memory') is True, (path, split)
            checked += 1
    assert checked > 30
