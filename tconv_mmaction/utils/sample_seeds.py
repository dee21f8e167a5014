"""Random numbers that are a function of what they are for, not of what was drawn before.

A transform's draws then depend on the run's seed, the epoch and the sample only: they are the same with 0, 1 or 4 data
workers, kept between epochs or not, and the same in a resumed run. The epoch travels with the index from the sampler
to the worker, because a worker that is kept cannot be told about a new epoch in another way.
"""
import random
from collections import Counter
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.device import get_device
from torch.utils.data import DataLoader, IterableDataset, Sampler, get_worker_info

_seeded = False


def samples_are_seeded() -> bool:
    """Whether the global generators of this process have just been seeded for the sample that is being loaded."""
    return _seeded


def seed_generators(*key: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (in the main process on all devices) with these numbers.

    Args:
        key: integers >= 0 that say what the draws are for; keys that differ give independent draws.
    """
    words = np.random.SeedSequence(key).generate_state(3, np.uint64)  # 64 bits: no two samples meet by chance
    random.seed(int(words[0]))
    np.random.seed(words[1:2].view(np.uint32))
    seed = int(words[2])
    if get_device() == 'cpu' or get_worker_info() is not None:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also touch CUDA, which a worker must not
    else:
        torch.manual_seed(seed)


class SampleIndex(int):
    """An index that knows which draw of the sample it is for: (epoch, how often it came before in this epoch)."""

    draw: Tuple[int, int] = (0, 0)


class SeededSampler(Sampler):
    """Yields what ``sampler`` yields, as :class:`SampleIndex`.

    Args:
        sampler: yields integers.
        epoch: the epoch of the next pass. None for endless training (IterBasedTrainLoop): passes are counted.
    """

    def __init__(self, sampler: Any, epoch: Optional[int] = None) -> None:
        self.sampler, self.epoch, self.passes = sampler, epoch, 0

    def __iter__(self) -> Iterator[SampleIndex]:
        epoch = self.passes if self.epoch is None else self.epoch
        self.passes += 1
        seen: Counter = Counter()
        for index in self.sampler:
            sample = SampleIndex(index)
            sample.draw = epoch, seen[sample]
            seen[int(index)] += 1
            yield sample

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # while it is unpickled there is none yet
            raise AttributeError(name)
        return getattr(self.sampler, name)


class SeededFetch:
    """``dataset.__getitems__``, which PyTorch calls with the indices of a batch: seeds, then loads, each by itself.

    Args:
        dataset: has ``__getitem__``, or a ``__getitems__`` of its own, which is called for one index at a time.
        key: the run's seed, and what else distinguishes this process' draws.
    """

    def __init__(self, dataset: Any, key: Sequence[int]) -> None:
        self.dataset, self.key = dataset, tuple(key)
        self.original = getattr(dataset, '__getitems__', None)

    def __call__(self, indices: Sequence[SampleIndex]) -> List[Any]:
        global _seeded
        samples = []
        for index in indices:
            if not isinstance(index, SampleIndex):
                raise TypeError(f'ExactResumeHook: the batch sampler made a new {type(index).__name__} {index!r} of an '
                                'index, which lost the epoch it is for. Pass indices on as the sampler yields them.')
            seed_generators(*self.key, int(index), *index.draw)
            _seeded = True
            try:
                samples.append(self.original([int(index)])[0] if self.original else self.dataset[int(index)])
            finally:
                _seeded = False
        return samples


def seed_samples(loader: DataLoader, key: Sequence[int], epoch: Optional[int] = None) -> SeededSampler:
    """Make every sample's draws a function of ``key``, the epoch and its index, from the next pass over the data on.

    Args:
        loader: changed in place. Done twice, the second key counts.
        key: integers >= 0, the run's seed first.
        epoch: see :class:`SeededSampler`, which is returned; set its ``epoch`` before each epoch.

    Raises:
        ValueError: if the loader has no indices to seed by (an IterableDataset, or no batches).
    """
    batches = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or not hasattr(batches, 'sampler'):
        raise ValueError(f'ExactResumeHook seeds the samples of a batch by their indices, and '
                         f'{type(loader.dataset).__name__} with {type(batches).__name__} has none: use a dataset with '
                         '__getitem__ and a batch sampler that has its sampler as .sampler, or remove the hook.')
    if not isinstance(batches.sampler, SeededSampler):
        batches.sampler = SeededSampler(batches.sampler)
        loader.dataset.__getitems__ = SeededFetch(loader.dataset, key)
    loader.dataset.__getitems__.key = tuple(key)
    batches.sampler.epoch = epoch
    return batches.sampler
