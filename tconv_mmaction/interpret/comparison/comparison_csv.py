"""The rows of a comparison of two models as two tables that any program opens, and back.

``samples.csv`` has a row per clip and model, ``blobs.csv`` one per blob. Together they hold what
:func:`.model_comparison.compare` needs, so that Tables 2 to 4 and Fig. 4 can be made from them again.
"""
from typing import Dict, List, Sequence, Tuple

import pandas as pd
import torch

from ..freeze import mask_runs
from .mask_metrics import drop_ratio
from .model_comparison import BLOB_MEASURES, clip_means

Rows = Dict[Tuple[int, int], dict]  # by (model, index of the clip)


def sample_table(rows: Rows, used: Sequence[int], titles: Sequence[str], threshold: float) -> pd.DataFrame:
    """A row per clip and model.

    Args:
        rows: of :func:`.model_comparison.measure_clips`, with ``video``.
        used: indices of the clips that both models have.
        titles: names of the models.
        threshold: above it a frame is in the mask.
    """
    table = []
    for index, number in sorted((index, number) for number, index in rows):
        row = rows[number, index]
        means = clip_means([row])
        ratio = drop_ratio([row['original']], [row['freeze']], [row['reverse']]).values
        runs = mask_runs(torch.tensor([row['mask']], dtype=torch.float64), threshold)[0]
        frames, height, width = row['size']
        table.append(dict(
            index=index, video=row['video'], model=titles[number], label=row['label'], prediction=row['prediction'],
            target=row['target'], OS=row['original'], FS=row['freeze'], RS=row['reverse'], maps=len(row['blobs']),
            silent=bool(row.get('silent')), **{name: float(means[name][0]) for name in BLOB_MEASURES},
            mask_length=row['mask_length'], runs=' '.join(f'{start}-{stop - 1}' for start, stop in runs),
            drop_ratio=float(ratio[0]) if ratio.size else None, drop_difference=row['reverse'] - row['freeze'],
            iterations=row['iterations'], frames=frames, height=height, width=width, used=index in used))
    return pd.DataFrame(table).astype({'label': 'Int64'})


def blob_table(rows: Rows, titles: Sequence[str]) -> pd.DataFrame:
    """A row per blob: ``index`` of the clip, ``model``, ``map`` (from 0), ``diameter`` and ``distance`` in pixels."""
    found = [dict(index=index, model=titles[number], map=step, diameter=diameter, distance=distance)
             for index, number in sorted((index, number) for number, index in rows)
             for step, blobs in enumerate(rows[number, index]['blobs']) for diameter, distance in blobs]
    return pd.DataFrame(found, columns=['index', 'model', 'map', 'diameter', 'distance'])


def rows_of(samples: pd.DataFrame, blobs: pd.DataFrame, title: str) -> List[dict]:
    """The rows of one model over the clips that both have, as :func:`.model_comparison.compare` takes them.

    Raises:
        ValueError: if a blob belongs to no map of the samples: the two tables are not of one run.
    """
    table = samples[(samples['model'] == title) & samples['used']]
    # a file with one clip may have whole numbers only: the sizes of blobs are numbers with a point all the same
    own = blobs[blobs['model'] == title].astype({'diameter': float, 'distance': float})
    per_clip = {index: list(group.itertuples(index=False)) for index, group in own.groupby('index')}
    rows = []
    for sample in table.to_dict('records'):
        maps: List[list] = [[] for _ in range(sample['maps'])]
        for blob in per_clip.get(sample['index'], ()):
            if blob.map >= len(maps):
                raise ValueError(f"clip {sample['index']} of {title} has {len(maps)} maps and a blob in map {blob.map} "
                                 '(from 0): blobs.csv and samples.csv are not of the same run.')
            maps[blob.map].append([blob.diameter, blob.distance])
        rows.append(dict(label=None if pd.isna(sample['label']) else int(sample['label']), target=sample['target'],
                         prediction=sample['prediction'], original=sample['OS'], freeze=sample['FS'],
                         reverse=sample['RS'], mask_length=sample['mask_length'], blobs=maps,
                         silent=sample['silent']))
    return rows
