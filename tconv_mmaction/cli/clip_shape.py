"""The size of the clips of a config, as far as its settings tell."""
from typing import Any, Optional, Sequence, Tuple

from ..setup_checks.data import datasets_of
from ..setup_checks.pipelines import clip_size

Shape = Tuple[int, int, int, int]  # (C, T, H, W)


def clip_shape(cfg: Any, splits: Sequence[str] = ('train', 'test')) -> Tuple[Optional[Shape], str]:
    """((C, T, H, W), '') of the first of these splits that tells it, or (None, why not).

    C is the number of values of ``model.data_preprocessor.mean``, else 3. Of several data sets the first counts.
    """
    why = []
    mean = ((cfg.get('model') or {}).get('data_preprocessor') or {}).get('mean')
    channels = len(mean) if isinstance(mean, (list, tuple)) else 3
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not isinstance(loader, dict) or 'dataset' not in loader:
            why.append(f'there is no {split}_dataloader')
            continue
        dataset, _ = next(iter(datasets_of(loader['dataset'], '')))
        if dataset.get('type') == 'VideoMNIST':
            side = dataset.get('size', 28)
            return (1 if mean is None else channels, dataset.get('num_frames', 30), side, side), ''
        size = clip_size(dataset.get('pipeline') or ())
        if None not in size:
            return (channels, *size), ''
        why.append(f'the pipeline of {split}_dataloader ends with frames, height and width {tuple(size)}')
    return None, '; '.join(why)
