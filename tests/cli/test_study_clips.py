"""Clips that studies hold in memory."""
import numpy as np
import pytest
import torch

from tconv_mmaction.cli.study_clips import cropped_and_mirrored, drifting_crop, kept, normalized


def test_made_once_and_kept(tmp_path):
    made = []

    def make(names):
        made.append(names)
        return np.array([[len(name)] for name in names])

    for _ in range(2):
        found = kept(tmp_path / 'kept.npz', lambda: {'bb', 'a'}, make)
        assert {name: array.tolist() for name, array in found.items()} == {'a': [1], 'bb': [2]}
    assert made == [['a', 'bb']]


def test_what_fails_leaves_no_file(tmp_path):
    with pytest.raises(OSError, match='no video'):
        kept(tmp_path / 'kept.npz', lambda: ['a'], lambda names: (_ for _ in ()).throw(OSError('no video')))
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_refused(tmp_path):
    np.savez(tmp_path / 'kept.npz', a=np.zeros(1))
    with pytest.raises(ValueError, match='kept.npz has a instead of names and arrays'):
        kept(tmp_path / 'kept.npz', lambda: ['a'], lambda names: np.zeros((1, 1)))


def test_normalized_by_hand():
    clip = torch.zeros(1, 3, 1, 1, 1, dtype=torch.uint8)
    clip[0, :, 0, 0, 0] = torch.tensor([124, 0, 255])
    want = [(124 - 123.675) / 58.395, -116.28 / 57.12, (255 - 103.53) / 57.375]
    np.testing.assert_allclose(normalized(clip).flatten().numpy(), want, rtol=1e-4)


def test_crops_are_parts_of_the_clip_or_its_mirror_image():
    clip = torch.arange(5 * 6).reshape(1, 1, 1, 5, 6)
    parts = {tuple(part.flatten().tolist()) for view in (clip, clip.flip(-1)) for top in range(3) for left in range(3)
             for part in [view[..., top:top + 3, left:left + 4]]}
    draw = torch.Generator().manual_seed(0)
    found = {tuple(cropped_and_mirrored(clip, 3, 4, draw).flatten().tolist()) for _ in range(400)}
    assert found == parts and len(parts) == 18


def test_a_crop_that_drifts_by_hand():
    """Pixel (t, y, x) has the value 100 t + 10 y + x; 0.6 and -0.4 pixels per frame from (2, 1), room (3, 2)."""
    t, y, x = torch.meshgrid(torch.arange(4), torch.arange(4), torch.arange(6), indexing='ij')
    clip = (100 * t + 10 * y + x)[None]
    found = drifting_crop(clip, (2, 1), np.array([.6, -.4]), 2, 3)
    assert found.shape == (1, 4, 2, 3)
    assert found[0, :, 0, 0].tolist() == [12, 100 + 13, 200 + 3, 300 + 3]  # x: 2, 3, 3 (held), 3; y: 1, 1, 0, 0 (held)
    still = [cropped_and_mirrored(clip[None], 2, 3, torch.Generator().manual_seed(3), velocities)
             for velocities in (None, np.zeros((1, 2)))]
    assert torch.equal(*still)
