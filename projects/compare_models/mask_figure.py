"""Which frames two networks need to know a word: over the clips of each class, how often a frame is in the mask.

    python projects/compare_models/mask_figure.py              docs/images/word_masks.png from results/
    python projects/compare_models/mask_figure.py FOLDER OUT   of another run of tools/analysis/compare_models.py

The temporal mask (Maenttaeri et al., ACCV 2020, eq. 1) holds the frames whose freezing costs the class its score. No
frame of a video is shown.
"""
import argparse
import json
from pathlib import Path

import tconv_mmaction  # noqa: F401

# isort: split
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tconv_mmaction.interpret import save_figure

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / 'docs/images/word_masks.png'


def in_mask(runs: object, frames: int) -> np.ndarray:
    """``'1-2 5-5'`` of 6 frames -> [0, 1, 1, 0, 0, 1]; an empty cell is an empty mask."""
    found = np.zeros(frames)
    for run in str(runs).split() if isinstance(runs, str) else ():
        first, last = map(int, run.split('-'))
        found[first:last + 1] = 1
    return found


def shares(samples: pd.DataFrame, model: str, classes: int) -> np.ndarray:
    """(classes, T): of the clips of a class that a model knows, in how many a frame is in the mask; NaN without any."""
    own = samples[(samples['model'] == model) & samples['used'] & (samples['label'] == samples['prediction'])]
    frames = int(samples['frames'].iloc[0])
    table = np.full((classes, frames), np.nan)
    for label, group in own.groupby('label'):
        table[int(label)] = np.mean([in_mask(runs, frames) for runs in group['runs']], 0)
    return table


def draw(samples: pd.DataFrame, titles, classes) -> Figure:
    """A map per model: classes down, frames across."""
    figure = Figure(figsize=(8.4, 0.9 + 0.3 * len(classes)), layout='constrained')
    plots = figure.subplots(1, len(titles), sharey=True)
    for axes, title in zip(plots, titles):
        values = shares(samples, title, len(classes))
        picture = axes.imshow(values, vmin=0, vmax=1, cmap='viridis', aspect='auto')
        known = samples[(samples['model'] == title) & samples['used']]
        right = int((known['label'] == known['prediction']).sum())
        axes.set(title=f'{title}: {right} of {len(known)} clips right', xlabel='frame of the clip',
                 xticks=range(values.shape[1]), xticklabels=range(1, values.shape[1] + 1))
        axes.set_facecolor('0.85')  # a class of which it knows no clip
        counts = known['label'][known['label'] == known['prediction']].value_counts()
        right_side = axes.secondary_yaxis('right')
        right_side.set_yticks(range(len(classes)), [counts.get(label, 0) for label in range(len(classes))])
        right_side.tick_params(length=0)
        axes.text(1.02, 1.02, 'clips', transform=axes.transAxes, fontsize=8)
    plots[0].set_yticks(range(len(classes)), classes)
    figure.colorbar(picture, ax=plots, label='share of clips\nwith the frame in the mask')
    return figure


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, nargs='?', default=HERE / 'results', help='(default: results/)')
    parser.add_argument('out', type=Path, nargs='?', default=OUT, help='(default: docs/images/word_masks.png)')
    args = parser.parse_args(argv)
    summary = json.loads((args.folder / 'summary.json').read_text(encoding='utf-8'))
    samples = pd.read_csv(args.folder / 'samples.csv')
    save_figure(draw(samples, [model['title'] for model in summary['models']], summary['classes']), args.out)
    print(f'written to {args.out}')


if __name__ == '__main__':
    main()
