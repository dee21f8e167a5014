"""How many clips of a list are classified right with BatchNorm's running statistics, and with those of the batch.

    PYTHONPATH=projects/clstm_against_i3d/configs python projects/clstm_against_i3d/configs/batch_statistics.py \\
        CONFIG CHECKPOINT DATA_ROOT/sitstand_train_split1.txt

A gap between the two says that the running statistics, not the weights, are what a tested network fails by. Clips are
shuffled with a fixed seed and come in batches of 8, as in training; nothing is updated.
"""
import argparse
import copy
from pathlib import Path

import torch
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint


def count_right(model: torch.nn.Module, samples: list, batch_statistics: bool, batch_size: int = 8) -> int:
    """Clips classified right; ``batch_statistics`` runs a copy of the model in training mode."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    right = 0
    for start in range(0, len(order), batch_size):
        net = copy.deepcopy(model).train(batch_statistics)  # training mode moves the running statistics of the copy
        batch = copy.deepcopy(pseudo_collate([samples[i] for i in order[start:start + batch_size]]))
        data = net.data_preprocessor(batch)
        with torch.no_grad():
            scores = net.cls_head(net.backbone(data['inputs'].flatten(0, 1)))  # N, 1, C, T, H, W: one clip each
        right += sum(int(score.argmax()) == int(sample.gt_label)
                     for score, sample in zip(scores, data['data_samples']))
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path)
    parser.add_argument('checkpoint', type=Path)
    parser.add_argument('list', type=Path, help="in mmaction2's form, beside videos/")
    args = parser.parse_args()
    config = Config.fromfile(args.config)  # imports this package
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    load_checkpoint(model, str(args.checkpoint), map_location='cpu', strict=True)
    videos = dict(video=str(args.list.parent / 'videos'))
    dataset = DATASETS.build({**config.test_dataloader.dataset, 'ann_file': str(args.list), 'data_prefix': videos})
    samples = [dataset[i] for i in range(len(dataset))]
    for name, mode in (('running statistics', False), ('statistics of the batch', True)):
        print(f'{name}: {count_right(model, samples, mode)} of {len(samples)} right')


if __name__ == '__main__':
    main()
