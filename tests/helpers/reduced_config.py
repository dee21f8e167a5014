"""A config of the repository on two small random clips: a run of it takes a second."""
from pathlib import Path

import torch
from mmaction.registry import DATASETS, MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from torch.utils.data import Dataset

# (C, T, H, W) of the random clips, small where the network takes any size
SHAPES = dict(LeNet5=(1, 30, 28, 28), TemporalResNet3d=(3, 8, 32, 32), GoogLeNet3d=(3, 13, 64, 64),
              R2Plus1d18=(3, 8, 32, 32), InceptionI3d=(3, 16, 64, 64), ConvLSTMNet=(3, None, 64, 64))


@DATASETS.register_module()
class RandomClips(Dataset):
    """Two packed random clips with labels 0 and 1."""

    metainfo = dict(classes=None)

    def __init__(self, shape, crops=1):
        self.shape, self.crops = tuple(shape), crops

    def __len__(self):
        return 2

    def full_init(self):
        pass

    def __getitem__(self, i):
        clips = torch.randint(0, 256, (self.crops, *self.shape), dtype=torch.uint8)
        return dict(inputs=clips, data_samples=ActionDataSample().set_gt_label(i))


def find_pretrained(cfg):
    for key, value in list(cfg.items()):
        if key in ('pretrained', 'init_cfg') and value is not None:
            cfg[key] = None
        elif isinstance(value, dict):
            find_pretrained(value)


def reduced(path, work_dir, options=None):
    """The config with ``options`` as --cfg-options gives them, on two small random clips."""
    config = Config.fromfile(path)
    config.merge_from_dict(options or {})
    find_pretrained(config.model)
    shape = SHAPES[config.model.backbone.type]
    shape = (config.model.backbone.get('in_channels', shape[0]), *shape[1:])
    if config.model.backbone.type == 'ConvLSTMNet':  # its head is built for one size of the frames
        head = config.model.cls_head
        head.feature_size = MODELS.build(config.model.backbone).feature_size(*shape[2:])
        shape = (shape[0], head.clip_len or 8, *shape[2:])
    for name, crops in (('train', 1), ('val', 1), ('test', 2)):
        loader = config[f'{name}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset = dict(type='RandomClips', shape=shape, crops=crops)
    config.train_cfg.update(max_epochs=1, val_interval=1)
    # checkpoints would be hundreds of MB
    config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=False)
    losses = [config.model.cls_head.get('loss_cls'), (config.model.get('neck') or {}).get('loss_cls')]
    for loss in filter(None, losses):
        if loss.type == 'ClassWeightedCrossEntropyLoss':  # the training list is the user's
            loss.ann_file = str(work_dir / 'train.txt')
            Path(loss.ann_file).write_text(''.join(f'{k}.mp4 {k}\n' for k in range(loss.num_classes)))
    config.work_dir = str(work_dir)
    config.launcher = 'none'
    return config
