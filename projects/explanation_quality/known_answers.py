"""Which explanation finds the frames that a network needs? The zoo's networks on clips where the answer is known.

    python projects/explanation_quality/known_answers.py
    python projects/explanation_quality/known_answers.py --table-only

A test video of Video-MNIST is left as it is in frames 5-9 and changed in the other 25, in one of two ways:

    appears   they are black: all there is to see of the class is in frames 5-9
    moves     they show the digit of frame 5, standing still before and after: all that moves does so in frames 5-9

A clip counts if the network needs the event: its softmax score for the class is at least 0.5 higher than without it
(all black; or the digit of frame 5 standing still all along). So frames 5-9 are the right answer. Every method ranks
the 30 frames; measured are the share of its first five that are right and the ROC area of the ranking, deletion and
insertion (grey for *appears*, freeze for *moves*), and how similar its maps stay when the network is randomised.

Writes results/clips.csv (a line per network, kind of clip, clip and method), results/randomization.csv,
results/frames.npz (what each method says of each frame), and figure and tables of docs/explanation_quality.md. What is
in the csv files already is not measured again; --table-only measures nothing.
"""
import argparse
import re
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import tconv_mmaction  # noqa: F401

# isort: split
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from tconv_mmaction.datasets.video_mnist import VideoMNIST
from tconv_mmaction.interpret import METHODS, RecognizerScores, areas, method_curves, method_maps, over_frames
from tconv_mmaction.interpret.access.clips import load_recognizer
from tconv_mmaction.interpret.deletion_insertion import ranked
from tconv_mmaction.interpret.explanation_scores import mean_interval
from tconv_mmaction.interpret.methods import seeds_of
from tconv_mmaction.interpret.pictures.explanations import draw_frame_importance
from tconv_mmaction.interpret.pictures.figure_files import save_figure
from tconv_mmaction.interpret.randomization_check import randomization_check
from tconv_mmaction.utils import atomic_open, atomic_write_text
from tconv_mmaction.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = Path(__file__).parent / 'results', ROOT / 'docs/explanation_quality.md'
FIGURE = ROOT / 'docs/images/explanation_quality.png'
FIRST, STOP, FRAMES = 5, 10, 30
NETS: Dict[str, Tuple[str, str]] = {
    'LeNet-5-3T': ('lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py', 'lenet5-3t_video-mnist-553009ef.pth'),
    'LeNet-5-3D': ('lenet5/lenet5-3d_scratch_1xb20-30x1x1-20e_video-mnist.py', 'lenet5-3d_video-mnist-ad0119b4.pth'),
    '3T-ResNet18-w8': ('tconv3/resnet18-3t-w8_scratch_1xb20-30x1x1-10e_video-mnist.py',
                       'resnet18-3t-w8_video-mnist-4a7aa8e9.pth'),
}
KINDS = {'appears': 'grey', 'moves': 'freeze'}  # and the perturbation of deletion and insertion
SETTINGS = dict(temporal_mask=dict(iterations=100, chunk_size=1))
CHECKED = (0, 1, 2, 3)  # videos of the randomisation check
KEYS = ['network', 'kind', 'clip', 'method']


def with_event(video: np.ndarray, kind: str) -> Tuple[np.ndarray, np.ndarray]:
    """(T, H, W) videos: the event in frames 5-9, and the same without it."""
    if kind == 'appears':
        event, without = np.zeros_like(video), np.zeros_like(video)
        event[FIRST:STOP] = video[FIRST:STOP]
    else:
        event, without = video.copy(), np.repeat(video[FIRST:FIRST + 1], len(video), 0)
        event[:FIRST] = event[STOP:] = video[FIRST]  # back where it was: nothing after the event tells of it
    return event, without


def as_clips(videos: List[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(videos)).float()[:, None] / 255


@torch.no_grad()
def needed(model: nn.Module, kind: str, count: int) -> Iterator[Tuple[int, int, Tensor]]:
    """(number of the test video, class, clip) of at most so many clips whose event is needed, class by class."""
    data = VideoMNIST(pipeline=[], split='test')
    labels = [data.get_data_info(i)['label'] for i in range(len(data))]
    score_fn, scores = RecognizerScores(model), []
    pairs = [with_event(data.frames(i), kind) for i in range(len(data))]
    for videos in zip(*pairs):
        probabilities = torch.cat([score_fn(part) for part in as_clips(list(videos)).split(25)])
        scores.append(probabilities[range(len(data)), labels])
    rows = (scores[0] - scores[1] >= 0.5).nonzero().flatten().tolist()
    print(f'{kind}: the network needs the event of {len(rows)} of {len(data)} clips', flush=True)
    by_class = [[i for i in rows if labels[i] == label] for label in range(10)]
    turns = [of[turn] for turn in range(len(rows)) for of in by_class if turn < len(of)]  # one of each
    for i in turns[:count]:
        yield i, labels[i], as_clips([pairs[i][0]])


def measure(model: nn.Module, clip: Tensor, label: int, kind: str) -> Tuple[List[dict], Dict[str, np.ndarray]]:
    """A row per method, and what each says of the frames."""
    maps = method_maps(model, clip, None, label, settings=SETTINGS)
    found = areas(method_curves(model, clip, maps, label, perturbation=KINDS[kind], chunk_size=31))
    truth, rows, frames = np.zeros(FRAMES), [], {}
    truth[FIRST:STOP] = 1
    for name, draws in maps.items():
        values = [over_frames(draw, FRAMES) for draw in (draws if isinstance(draws, list) else [draws])]
        places = [ranked(value, seeds_of(clip))[0].numpy() for value in values]
        hits = np.mean([(truth[place < STOP - FIRST]).mean() for place in places])
        roc = np.mean([roc_auc_score(truth, value[0].numpy()) for value in values])
        rows.append(dict(method=name, hits=hits, roc=roc, deletion=found[name][0][0], insertion=found[name][1][0]))
        frames[name] = values[0][0].numpy()
    return rows, frames


def run(count: int) -> None:
    path = RESULTS / 'clips.csv'
    done = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=KEYS)
    frames = dict(np.load(RESULTS / 'frames.npz')) if (RESULTS / 'frames.npz').is_file() else {}
    checks = pd.read_csv(RESULTS / 'randomization.csv') if (RESULTS / 'randomization.csv').is_file() else pd.DataFrame(
        columns=['network', 'method'])
    for network, (config, checkpoint) in NETS.items():
        model = load_recognizer(str(ROOT / 'configs/recognition' / config), str(ROOT / 'zoo' / checkpoint))
        clips = {kind: list(needed(model, kind, count)) for kind in KINDS}
        for kind, chosen in clips.items():
            for number, label, clip in chosen:
                if ((done.network == network) & (done.kind == kind) & (done['clip'] == number)).any():
                    continue
                rows, says = measure(model, clip, label, kind)
                rows = pd.DataFrame([dict(network=network, kind=kind, clip=number, label=label, **row) for row in rows])
                done = rows if done.empty else pd.concat([done, rows])
                frames.update({f'{network}/{kind}/{number}/{name}': value for name, value in says.items()})
                atomic_write_text(path, done.round(5).to_csv(index=False))
                with atomic_open(RESULTS / 'frames.npz', 'wb') as file:
                    np.savez_compressed(file, **frames)
                print(network, kind, number, flush=True)
        if network not in set(checks.network):
            data = VideoMNIST(pipeline=[], split='test')  # whole videos: of a black one there is little to compare
            some = as_clips([data.frames(i) for i in CHECKED])
            labels = [data.get_data_info(i)['label'] for i in CHECKED]
            check = randomization_check(model, some, None, labels, stages=1, settings=SETTINGS)
            rows = pd.DataFrame([dict(network=network, method=name, rank=np.nanmean(check.rank[name][-1]),
                                      rank_abs=np.nanmean(check.rank_abs[name][-1]), ssim=check.ssim[name][-1].mean(),
                                      unchanged=name in check.unchanged) for name in check.rank])
            checks = rows if checks.empty else pd.concat([checks, rows])
            atomic_write_text(RESULTS / 'randomization.csv', checks.round(4).to_csv(index=False))


def with_interval(values: pd.Series) -> str:
    low, high = mean_interval(values)
    return f'{values.mean():.2f}' + ('' if np.isnan(low) else f' ± {(high - low) / 2:.2f}')


def tables() -> Dict[str, str]:
    """Markdown by name, from the csv files."""
    clips, checks = pd.read_csv(RESULTS / 'clips.csv'), RESULTS / 'randomization.csv'
    clips['gain'] = clips.insertion - clips.deletion
    found = {}
    for kind in KINDS:
        part, cells = clips[clips.kind == kind], []
        for name in METHODS:
            row = [f'`{name}`']
            for network in NETS:
                of = part[(part.network == network) & (part.method == name)].set_index('clip')
                chance = part[(part.network == network) & (part.method == 'random')].set_index('clip')
                if of.empty:
                    row += ['', '', '']
                    continue
                row += [f'{100 * of.hits.mean():.0f}', f'{of.roc.mean():.2f}',
                        '' if name == 'random' else with_interval(of.gain - chance.gain)]
            cells.append(row)
        heads = [f'{network}: {what}' for network in NETS for what in ('hits, %', 'ROC', 'against chance')]
        found[kind] = markdown_table(['method', *heads], cells)
        counts = part[part.method == 'random'].groupby('network').size()
        found[f'{kind}-clips'] = ', '.join(f'{network} {counts.get(network, 0)}' for network in NETS)
    if not checks.is_file():
        found['randomization'] = 'Not measured.'
        return found
    checks = pd.read_csv(checks)
    cells = [[f'`{name}`', *(value for network in NETS for value in _check_cells(checks, network, name))]
             for name in METHODS if name in set(checks.method)]
    heads = [f'{network}: {what}' for network in NETS for what in ('rank', 'of absolute values', 'SSIM')]
    found['randomization'] = markdown_table(['method', *heads], cells)
    return found


def _check_cells(checks: pd.DataFrame, network: str, name: str) -> List[str]:
    rows = checks[(checks.network == network) & (checks.method == name)]
    if rows.empty:
        return ['', '', '']
    row = rows.iloc[0]
    bold = '**' if row.unchanged else ''
    return [f'{bold}{row[key]:.2f}{bold}' for key in ('rank', 'rank_abs', 'ssim')]


def figure() -> None:
    """What each method says of each frame, the mean over the clips, each clip's scaled to [0, 1]."""
    stored, panels = dict(np.load(RESULTS / 'frames.npz')), {}
    for kind in KINDS:
        for network in NETS:
            rows = {}
            for name in METHODS:
                values = [value for key, value in stored.items() if key.startswith(f'{network}/{kind}/')
                          and key.endswith(f'/{name}')]
                if values:
                    scaled = [(v - v.min()) / max(float(np.ptp(v)), 1e-12) for v in values]
                    rows[name] = np.mean(scaled, 0)
            if rows:
                panels[f'{network}, {kind} (n = {len(values)})'] = rows
    save_figure(draw_frame_importance(panels, range(FIRST, STOP), columns=len(NETS)), FIGURE)


def write_page() -> None:
    text = PAGE.read_text(encoding='utf-8')
    for name, table in tables().items():
        text = re.sub(rf'(<!-- table {name} -->\n).*?(<!-- end -->)', lambda found, table=table:
                      f'{found[1]}\n{table}\n\n{found[2]}', text, flags=re.S)
    atomic_write_text(PAGE, text)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--clips', type=int, default=20, help='at most, per network and kind (default 20)')
    parser.add_argument('--table-only', action='store_true', help='write figure and tables from what was measured')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    if not args.table_only:
        run(args.clips)
    figure()
    write_page()


if __name__ == '__main__':
    main()
