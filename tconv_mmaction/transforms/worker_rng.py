"""The random numbers of a data-loading worker: new in every epoch, different in every worker, fixed by the run's seed.

mmengine seeds NumPy's global generator with rank, worker and run seed when a worker starts. Without
``persistent_workers`` the workers start anew in every epoch, so that generator repeats itself epoch by epoch. The
seed that PyTorch gives each worker is drawn anew from the main process' generator, which the run seed fixes; it
does not know the rank. Both together are what is wanted.

Under :class:`tconv_mmaction.hooks.ExactResumeHook` the global generators are seeded for every sample by itself
(:mod:`tconv_mmaction.utils.sample_seeds`); then those are the ones to draw from, in a worker as in the main process.
"""
import numpy as np
from torch.utils.data import get_worker_info

from ..utils.sample_seeds import samples_are_seeded


class WorkerRNG:
    """Gives the generator to draw from: the worker's own, or NumPy's global one where that is seeded well.

    Args:
        name: who draws. Two transforms with different names draw independent numbers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._seed = self._generator = None

    def get(self) -> np.random.RandomState:
        """The source to draw from now."""
        worker = get_worker_info()
        if worker is None or samples_are_seeded():
            return np.random.mtrand._rand  # what np.random.randint and its like draw from
        if self._seed != worker.seed:
            start = [int(word) for word in np.random.get_state()[1][:4]]  # set by rank, worker and run seed
            entropy = np.random.SeedSequence([worker.seed, *start, *self.name.encode()])
            self._generator = np.random.RandomState(np.random.MT19937(entropy))
            self._seed = worker.seed
        return self._generator
