"""How a data loader cuts its samples into batches: none at all, endless, left out, or a last one of a single sample.

A norm in training needs more than one value per channel. Where the last stage of a network has a single position left
(1x1x1), a batch of one sample has one, and PyTorch raises an error after a whole epoch.
"""
import math
import os
from typing import Any, Dict, List, Optional, Set, Tuple

import torch
from mmengine.dist import get_world_size, is_distributed
from mmengine.registry import FUNCTIONS
from torch import nn

from .problems import Problems

LAUNCHED = dict(pytorch='WORLD_SIZE', slurm='SLURM_NTASKS', mpi='OMPI_COMM_WORLD_SIZE')


def processes(cfg: Any) -> int:
    """How many processes train together, as far as can be known before they have found each other."""
    if is_distributed():
        return get_world_size()
    text = os.environ.get(LAUNCHED.get(str(cfg.get('launcher', 'none')), ''), '1')
    return int(text) if text.isdigit() and int(text) > 0 else 1


def samples_of(cfg: Any, counts: Dict[str, Optional[int]], key: str) -> Optional[int]:
    """Samples of a data set with wrappers; None where one of them is not known.

    Args:
        cfg: of the data set.
        counts: lines of the lists, by the key of the data set that reads them.
        key: of ``cfg``.
    """
    if not isinstance(cfg, dict):
        return None
    kind = cfg.get('type')
    if kind == 'RepeatDataset':
        inner, times = samples_of(cfg.get('dataset'), counts, f'{key}.dataset'), cfg.get('times')
        return inner * times if inner is not None and isinstance(times, int) else None
    if kind == 'ConcatDataset':
        parts = [samples_of(entry, counts, f'{key}.datasets.{i}') for i, entry in enumerate(cfg.get('datasets') or ())]
        return None if not parts or None in parts else sum(parts)  # type: ignore[arg-type]
    if kind == 'ClassBalancedDataset':
        return None
    count, indices = counts.get(key), cfg.get('indices')
    if isinstance(indices, (list, tuple)):
        return len(indices)
    return min(count, abs(indices)) if count is not None and isinstance(indices, int) else count


def shares(samples: int, world_size: int, round_up: bool) -> Set[int]:
    """Samples per process, as DefaultSampler deals them out."""
    return {math.ceil(samples / world_size)} if round_up else {samples // world_size, math.ceil(samples / world_size)}


def batches_of(samples: Optional[int], loader: Any, world_size: int) -> Optional[int]:
    """Batches of one epoch and process, None where they are not known."""
    size = loader.get('batch_size') if isinstance(loader, dict) else None
    if samples is None or not isinstance(size, int) or size < 1 or 'batch_sampler' in loader:
        return None
    own = max(shares(samples, world_size, (loader.get('sampler') or {}).get('round_up', True)))
    return own // size if loader.get('drop_last') else math.ceil(own / size)


def norms_with_one_value(model: nn.Module, clips: Tuple[int, ...]) -> List[Tuple[str, nn.Module, Tuple[int, ...]]]:
    """(name, norm, shape) of the norms that get one value per channel in training from clips of this shape.

    Args:
        model: on the meta device.
        clips: (samples * views, C, T, H, W).
    """
    found: List[Tuple[str, nn.Module, Tuple[int, ...]]] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Tuple[Any, ...]) -> None:
            x = inputs[0]
            if not module.training or not torch.is_tensor(x) or x.dim() < 2:
                return
            kind = type(module).__name__
            if 'Instance' in kind:
                values = x[0, 0].numel()
            elif isinstance(module, nn.GroupNorm):
                values = x[0].numel() // module.num_groups
            else:
                values = x.numel() // x.shape[1]
            if values == 1:
                found.append((name, module, tuple(x.shape)))
        return hook

    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
    handles = [module.register_forward_pre_hook(look(name)) for name, module in model.named_modules()
               if isinstance(module, kinds) and not isinstance(module, nn.SyncBatchNorm)]
    was_training = model.training
    try:
        model.train()
        with torch.no_grad(), torch.device('meta'):
            features = model.backbone(torch.empty(clips))
            if model.with_neck:
                features = model.neck(features)[0]
            model.cls_head(features)
    except Exception:  # an error of the norm itself, or one that the pass in eval mode has named
        pass
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return found


def check_last_batch(model: nn.Module, clip: Tuple[int, ...], views: int, samples: int, loader: Dict[str, Any],
                     world_size: int, problems: Problems) -> None:
    """Name a norm that a batch of one sample leaves without a spread.

    Args:
        model: on the meta device.
        clip: (C, T, H, W).
        views: clips of a sample.
        samples: of the training, over all processes.
        loader: train_dataloader.
        world_size: processes.
        problems: what is found goes there.
    """
    size, drop = loader.get('batch_size'), bool(loader.get('drop_last', False))
    if not isinstance(size, int) or size < 1 or 'batch_sampler' in loader:
        return
    sampler = loader.get('sampler') or {}
    endless = sampler.get('type') == 'InfiniteSampler'
    own = shares(samples, world_size, sampler.get('round_up', True))
    if size > 1 and (drop or endless or not any(count % size == 1 for count in own)):
        return
    found = norms_with_one_value(model, (views, *clip))
    if not found:
        return
    name, norm, shape = found[0]
    each = f' in each of {world_size} processes ({max(own)} samples)' if world_size > 1 else ''
    what = (f'a batch has one sample{each}' if size == 1 else
            f'{samples} samples in batches of {size} leave a last batch of one{each}')
    way = 'Set batch_size to 2 or more' if size == 1 else 'Set drop_last=True, or another batch_size'
    problems.add('train_dataloader.batch_size' if size == 1 else 'train_dataloader.drop_last',
                 f'{what}, and {name} ({type(norm).__name__}) then gets one value per channel, {shape}, which it '
                 f'cannot normalise in training. {way}; or use larger or longer clips.')


def check_cutting(loader: Any, key: str, split: str, samples: Optional[int], loop: Any, world_size: int,
                  problems: Problems) -> None:
    """Batches that never come, never end, or leave samples out where they are counted."""
    if not isinstance(loader, dict):
        return
    size, drop = loader.get('batch_size'), bool(loader.get('drop_last', False))
    sampler = loader.get('sampler') if isinstance(loader.get('sampler'), dict) else {}
    by_epoch = isinstance(loop, dict) and loop.get('by_epoch', 'IterBased' not in str(loop.get('type', '')))
    if split == 'train' and samples is not None and drop and batches_of(samples, loader, world_size) == 0:
        problems.add(f'{key}.drop_last', f'True leaves out the only batch there is: {samples} samples, batch_size='
                     f'{size}{f", {world_size} processes" if world_size > 1 else ""}. Use a smaller batch_size.')
    if split == 'train' and sampler.get('type') == 'InfiniteSampler' and by_epoch:
        problems.add(f'{key}.sampler.type', "'InfiniteSampler' has no end, and neither would the first epoch. Use "
                     "'DefaultSampler', or train_cfg=dict(type='IterBasedTrainLoop', max_iters=...).")
    if split != 'train' and sampler.get('type') == 'InfiniteSampler':
        problems.add(f'{key}.sampler.type', "'InfiniteSampler' has no end, and neither would the evaluation. Use "
                     "'DefaultSampler' with shuffle=False.")
    if split != 'train' and drop and not (samples is not None and isinstance(size, int) and size > 0
                                          and samples % size == 0):
        problems.warn(f'{key}.drop_last', 'True leaves the last samples out, and the result would not be that of the '
                      'whole list. Take it out.')
    if split == 'train' and sampler.get('shuffle') is False:
        problems.warn(f'{key}.sampler.shuffle', 'False shows the samples in the order of the list, which most lists '
                      'have by class: batches of one class train badly. Set it to True.')
    if split == 'test' and sampler.get('shuffle') is True:
        problems.warn(f'{key}.sampler.shuffle', 'True: what is dumped would be in another order than the list. Set it '
                      'to False.')
    if not loader.get('num_workers', 0) and loader.get('prefetch_factor') is not None:
        problems.add(f'{key}.prefetch_factor', f'{loader["prefetch_factor"]} needs workers, and num_workers is 0. Take '
                     'it out, or set num_workers.')
    collate = loader.get('collate_fn')
    if isinstance(collate, dict) and isinstance(collate.get('type'), str) and FUNCTIONS.get(collate['type']) is None:
        problems.add(f'{key}.collate_fn.type', f'no function is registered as {collate["type"]!r}. Leave collate_fn '
                     "out: mmaction2's data preprocessors want 'pseudo_collate', which is what stands there then.")


def check_wrapper(cfg: Any, key: str, problems: Problems) -> None:
    """RepeatDataset, ConcatDataset and ClassBalancedDataset that cannot work."""
    if not isinstance(cfg, dict):
        return
    kind = cfg.get('type')
    if kind == 'RepeatDataset':
        times = cfg.get('times')
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            problems.add(f'{key}.times', f'must be how often to repeat, a positive whole number, got {times!r}.')
        check_wrapper(cfg.get('dataset'), f'{key}.dataset', problems)
    elif kind == 'ConcatDataset':
        if not cfg.get('datasets'):
            problems.add(f'{key}.datasets', f'must be a list of data sets, got {cfg.get("datasets")!r}.')
        for i, entry in enumerate(cfg.get('datasets') or ()):
            check_wrapper(entry, f'{key}.datasets.{i}', problems)
