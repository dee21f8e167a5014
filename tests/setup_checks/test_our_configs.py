"""Every config of the repository passes the check with lists that fit it: no mistake, and one warning of a paper's own.

3T-ResNet18 halves 30 frames until slices of its last stages see none, as published; that is said.
"""
import cv2
import numpy as np
import pytest
from helpers.paths import ROOT
from mmengine.config import Config

from tconv_mmaction.setup_checks import check_config
from tconv_mmaction.setup_checks.data import datasets_of

CONFIGS = sorted(path for path in (ROOT / 'configs/recognition').rglob('*.py') if '_base_' not in path.as_posix())
# one of each network and data set; the others differ in a number or a convolution
QUICK = ('lenet5-3t', 'clstm_scratch_1xb16-u32-100e_kth', 'i3d_scratch_8xb8-u16-100e_sthv2', 'resnet18-3t-w8',
         '_folder', 'resnet18-3t_scratch_1xb32-30x1x1-100e_jester', 'r2plus1d18_scratch_1xb30',
         'i3d-r18_ours_imagenet-pretrained_8xb3')
SIZES = dict(wide=(340, 256), tall=(240, 426), television=(320, 240))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Videos of three sizes, one of them in portrait, and a folder of frames with the names of Jester's and others."""
    folder = tmp_path_factory.mktemp('data')
    for name, size in SIZES.items():
        writer = cv2.VideoWriter(str(folder / f'{name}.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 25, size)
        for i in range(40):
            writer.write(np.full((size[1], size[0], 3), i, dtype=np.uint8))
        writer.release()
    image = cv2.imencode('.jpg', np.zeros((100, 176, 3), dtype=np.uint8))[1].tobytes()
    (folder / 'frames').mkdir()
    for number in range(1, 41):
        for template in ('{:05}.jpg', 'img_{:05}.jpg'):
            (folder / 'frames' / template.format(number)).write_bytes(image)
    return folder


def with_lists(config, folder, name):
    """The config with lists in which every class has a video; the lists name files of three sizes over and over."""
    classes = config.model.cls_head.num_classes
    for part in ('train', 'val', 'test'):
        for dataset, _ in datasets_of(config[f'{part}_dataloader'].dataset, ''):
            if dataset.type == 'VideoMNIST':
                continue
            count = max(classes, abs(dataset.get('indices') or 0))
            links, lines = folder / f'{part}_{name}', []
            links.mkdir()
            for i in range(count):
                if dataset.type == 'RawframeDataset':
                    (links / f'{i}').symlink_to(folder / 'frames')
                    lines.append(f'{i} 40 {i % classes}')
                else:
                    (links / f'{i}.mp4').symlink_to(folder / f'{list(SIZES)[i % 3]}.mp4')
                    lines.append(f'{i}.mp4{dataset.get("delimiter", " ")}{i % classes}')
            dataset.data_prefix = {'img' if dataset.type == 'RawframeDataset' else 'video': str(links)}
            dataset.ann_file = str(folder / f'{part}_{name}.txt')
            (folder / f'{part}_{name}.txt').write_text('\n'.join(lines) + '\n')
            dataset.data_root = None
    if not str(config.model.backbone.get('pretrained') or '').startswith('torchvision://'):
        config.model.backbone.pop('pretrained', None)
    return config


@pytest.mark.parametrize('path', [
    pytest.param(path, id=path.stem, marks=() if any(part in path.stem for part in QUICK) else pytest.mark.slow)
    for path in CONFIGS])
def test_no_mistake_and_no_warning(path, folder):
    config = with_lists(Config.fromfile(path), folder, path.stem)
    if '_from-' in path.stem:  # starts from a checkpoint that another tool writes
        config.load_from = None
    for mode in ('train', 'test'):
        found = check_config(config, mode)
        warned = [f'{warning.key}: {warning.text}' for warning in found.warnings]
        if mode == 'train' and path.stem.startswith('resnet18-3t') and '30x1x1' in path.stem:
            text = warned.pop()
            assert text.startswith('train_dataloader.dataset.pipeline: 19 % of the temporal parameters')
            assert text.count('backbone.layer') == 3 and 'Clips of 33 frames use all of them' in text
        assert warned == [] and not [note for note in found.notes if 'VideoMNIST' not in note]
