"""The config that tools/data/class_folders.py writes: a network of choice on the user's own lists.

It restates the whole data part, so that a reader sees what is done to a video, and takes the rest from our ``_base_``.
"""
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Optional, Sequence, Tuple

from ..backbones.conv_lstm_net import ConvLSTMNet
from ..interpret.temporal_reach import dead_slices

# fewest frames first in the network that keep all slices alive: conv1_stride_t, pool1_stride_t, temporal_strides
STRIDES = ((2, 2, (1, 2, 2, 2)), (2, 2, (1, 2, 2, 1)), (2, 2, (1, 2, 1, 1)), (2, 2, (1, 1, 1, 1)),
           (2, 1, (1, 1, 1, 1)), (1, 1, (1, 1, 1, 1)))
RESNET18_KERNELS = (7, 3, 3, 3, 3)
LSTM_LAYERS = 3  # of the paper
ADAM = "optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))\n"

# without T_max the cosine ends with max_epochs, whatever that is set to
SCHEDULE = """param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True)]
default_hooks = dict(logger=dict(interval=5), checkpoint=dict(max_keep_ckpts=1))
custom_hooks = [dict(type='CheckInvalidLossHook', interval=5)]
auto_scale_lr = dict(enable=False, base_batch_size=8)
"""


class Recipe(NamedTuple):
    """Base files below configs/recognition."""
    bases: Tuple[str, ...]


RESNET18 = 'tconv3/_base_/resnet18.py'
RECIPES = {
    '3t': Recipe(('tconv3/resnet18-3t_scratch_1xb8-16x1x1-30e_folder-rgb.py', )),
    '3d': Recipe((RESNET18, )), 'r2plus1d': Recipe(('tconv3/_base_/r2plus1d18.py', )),
    'clstm': Recipe(('clstm/_base_/clstm.py', )), 'i3d-ours': Recipe(('temporal_filters/_base_/i3d-r18.py', ))}


class Clip(NamedTuple):
    """What the network sees: frames, rows and columns."""
    frames: int = 16
    height: int = 112
    width: int = 112

    @property
    def whole(self) -> Tuple[int, int]:
        """(width, height) of a frame before a part of it is cut out: an eighth more."""
        return round(self.width * 8 / 7), round(self.height * 8 / 7)


def resnet18_strides(frames: int) -> Tuple[int, int, Tuple[int, ...]]:
    """The first of ``STRIDES`` with which no slice of a temporal kernel of ResNet18 sees padding only."""
    for strides in STRIDES:
        conv1, pool1, stages = strides
        length, dead = frames, []
        plan = [(RESNET18_KERNELS[0], conv1, True), (3, pool1, False)]
        for kernel, stride in zip(RESNET18_KERNELS[1:], stages):
            plan += [(kernel, stride, True)] + [(kernel, 1, True)] * 3
        for kernel, stride, learns in plan:
            padding = kernel // 2
            dead += dead_slices(length, kernel, stride, padding) if learns else []
            length = (length + 2 * padding - kernel) // stride + 1
        if not dead:
            return strides
    return STRIDES[-1]


def lstm_layers(clip: Clip) -> Tuple[int, Tuple[int, int]]:
    """As many layers of the C-LSTM, up to ``LSTM_LAYERS``, as leave something of a frame, and its (h, w) then.

    Raises:
        ValueError: if not even one does.
    """
    def size(layers: int) -> Tuple[int, int]:
        net = ConvLSTMNet(num_layers=layers, hidden_channels=1, kernel_size=5, stride=2)
        return tuple(net.feature_size(clip.height, clip.width))

    for layers in range(LSTM_LAYERS, 1, -1):
        with suppress(ValueError):
            return layers, size(layers)
    return 1, size(1)


def model_text(model: str, num_classes: int, clip: Clip) -> str:
    """The lines that set the network."""
    head = f'num_classes={num_classes}'
    if model in ('3t', '3d'):
        conv1, pool1, stages = resnet18_strides(clip.frames)
        kind = '' if model == '3t' else "temporal_cfg=dict(type='Conv3d'),\n        "
        return ('model = dict(\n    # strides in time: no slice of a temporal kernel lies outside of the clip\n'
                f'    backbone=dict(\n        {kind}conv1_stride_t={conv1}, pool1_stride_t={pool1}, '
                f'temporal_strides={stages}),\n    cls_head=dict({head}))\n')
    if model == 'i3d-ours':
        return ('model = dict(\n    backbone=dict(\n        temporal_kernels=(1, 1, 3, 3, 5),\n'
                "        temporal_cfg=dict(type='MultiBranchConv3d', eta=2.0),\n"
                '        pretrained=None),  # or the path of resnet18-f37072fd.pth\n'
                f'    cls_head=dict({head}))\n')
    if model == 'clstm':
        layers, size = lstm_layers(clip)
        fewer = '' if layers == LSTM_LAYERS else (
            f'        num_layers={layers},  # of {LSTM_LAYERS}: the others would have no pixel left\n')
        return ('model = dict(\n    backbone=dict(\n'
                "        # not the paper's one norm for all steps and layers: in small batches its running statistics\n"
                '        # are those of the last steps, and tests fail (docs/clstm_against_i3d.md)\n'
                f"        shared_norm=False, norm_statistics='clip',\n{fewer}    ),\n"
                f'    cls_head=dict({head}, clip_len={clip.frames}, feature_size={size}))\n')
    return f'model = dict(cls_head=dict({head}))\n'


def pipelines(clip: Clip) -> str:
    """Training: half to all of the picture, flipped or not; test: all of it. The sides of wide videos stay."""
    width, height = clip.whole
    head = ("    dict(type='DecordInit'),\n"
            f"    dict(type='WholeVideoSampleFrames', clip_len={clip.frames}),\n"
            "    dict(type='DecordDecode'),\n"
            f"    dict(type='Resize', scale=({width}, {height}), keep_ratio=False),  # no side is cut off\n")
    tail = "    dict(type='FormatShape', input_format='NCTHW'),\n    dict(type='PackActionInputs'),\n]\n"
    resize = f"    dict(type='Resize', scale=({clip.width}, {clip.height}), keep_ratio=False),\n"
    return (f"train_pipeline = [\n{head}    dict(type='RandomResizedCrop', area_range=(0.5, 1.0)),\n{resize}"
            "    dict(type='Flip', flip_ratio=0.5),  # set to 0 if left and right tell your classes apart\n"
            f'{tail}test_pipeline = [\n{head}{resize}{tail}')


def shown(path: Path) -> str:
    """Relative to the working directory if it is below it, as commands are started there; else absolute."""
    path, here = path.resolve(), Path.cwd()
    return path.relative_to(here).as_posix() if here in path.parents or path == here else str(path)


def loaders(lists: Path, folder: Path, delimiter: str, pack: Optional[Path]) -> str:
    """Paths and data sets of the three loaders."""
    kind = "'VideoDataset'" if pack is None else "'PackedVideoDataset'"
    text = (f'lists = {shown(lists)!r}\nvideos = {shown(pack or folder)!r}'
            f'{"" if pack is None else "  # decoded by tools/data/pack_clips.py"}\n')
    for part, pipeline in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        text += (f'{part}_dataloader = dict(dataset=dict(\n    type={kind}, ann_file=f\'{{lists}}/{part}.txt\', '
                 f'data_prefix=dict(video=videos),\n    delimiter={delimiter!r}, pipeline={pipeline}_pipeline))\n')
    return text


def config_text(path: Path, configs: Path, model: str, clip: Clip, num_classes: int, lists: Path, folder: Path,
                delimiter: str = ' ', pack: Optional[Path] = None, base: Optional[Path] = None,
                empty: Sequence[str] = ()) -> str:
    """A config for ``path``.

    Args:
        path: where it will be; its ``_base_`` files are given relative to it.
        configs: our configs/recognition.
        model: a key of ``RECIPES``.
        clip: frames and size.
        num_classes: of the head.
        lists, folder: of train.txt, val.txt, test.txt, and of the videos.
        delimiter: of the lists.
        pack: of packed videos, if these shall be read instead.
        empty: those of 'val' and 'test' whose lists have no video: they are left out of the run.
        base: another config to start from, whose network and pipelines stay; ``model`` and ``clip`` do not count then.
    """
    def relative(files: Sequence[Path]) -> str:
        names = [os.path.relpath(file.resolve(), path.resolve().parent) for file in files]
        return repr(names[0]) if len(names) == 1 else '[\n' + ''.join(f'    {name!r},\n' for name in names) + ']'

    without = ''.join(f'{part}_dataloader = {part}_evaluator = {part}_cfg = None\n' for part in empty)
    if 'val' in empty:  # nothing to choose the best checkpoint by
        without += "default_hooks = dict(logger=dict(interval=5), checkpoint=dict(max_keep_ckpts=1, save_best=None))\n"
    if base is not None:
        text = loaders(lists, folder, delimiter, pack).replace(', pipeline=train_pipeline', '')
        return (f'_base_ = {relative([base])}\n\nmodel = dict(cls_head=dict(num_classes={num_classes}))\n'
                + text.replace(', pipeline=test_pipeline', '') + without)
    recipe = RECIPES[model]
    files = [configs / name for name in recipe.bases]
    start = ''
    if model != '3t':
        files = [configs.parent / '_base_/default_runtime.py', *files, configs / 'tconv3/_base_/folder.py']
        start = (ADAM if model != 'clstm' else '') + SCHEDULE  # the C-LSTM has an optimizer of its own
    return (f'# {model} on {num_classes} classes, {clip.frames} frames of {clip.height}x{clip.width} (HxW) over the '
            f'whole video; written by tools/data/class_folders.py\n_base_ = {relative(files)}\n\n'
            f'{model_text(model, num_classes, clip)}{start}\n{pipelines(clip)}\n'
            f'{loaders(lists, folder, delimiter, pack)}{without}')
