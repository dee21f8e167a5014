"""Which frames a recognizer needs: temporal masks of clips (Maenttaeri et al., ACCV 2020, sec. 3.1).

    python tools/analysis/temporal_masks.py CONFIG CKPT VIDEO... --out DIR
    python tools/analysis/temporal_masks.py CONFIG CKPT --dataset test --limit 20 --out DIR

Writes, per clip, NAME.png (frames, frozen frames, mask, scores, loss) and NAME.mp4 (the clip beside its frozen self,
with the mask as a timeline); for all clips masks.csv (OS, FS, RS, runs, length), masks.npz (masks and loss curves) and
table_4.csv (mask length, drop ratio, drop difference: mean and standard deviation).

With --perturbation the frames of the mask are blurred, shuffled, ... instead of frozen; with --disjoint 3 the search
goes on for up to 3 masks that have no frame in common (disjoint.csv), for a class that needs several events.
"""
import sys

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import figure_files
from tconv_mmaction.interpret import (
    PERTURBATIONS,
    RecognizerScores,
    drop_difference,
    drop_ratio,
    find_disjoint_masks,
    find_temporal_mask,
    mask_length,
    perturb,
    summarize,
)
from tconv_mmaction.interpret.pictures.rendering import beside, strip, with_timeline, write_clip
from tconv_mmaction.interpret.temporal_mask import TemporalMask
from tconv_mmaction.utils import atomic_open, atomic_write_text


def frozen_frames(frames: np.ndarray, mask: np.ndarray, perturbation: str = 'freeze') -> np.ndarray:
    """The pictures as the mask freezes them, or does with them what the perturbation does."""
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float()
    result = perturb(clip, torch.from_numpy(mask)[None], perturbation)
    return result[0].permute(1, 2, 3, 0).round().clamp(0, 255).byte().numpy()


def draw(clip, frozen: np.ndarray, found: TemporalMask, title: str,
         perturbation: str = 'freeze') -> Figure:
    mask, frames = found.mask[0].cpu().numpy(), found.mask.size(1)
    figure = Figure(figsize=(max(8, 0.9 * frames), 6), layout='constrained')
    axes = figure.subplot_mosaic([['pictures'] * 2, ['bars'] * 2, ['scores', 'loss']], height_ratios=(2.2, 1, 1.6))
    pictures, bars, left, right = (axes[name] for name in ('pictures', 'bars', 'scores', 'loss'))
    pictures.imshow(strip([clip.frames, frozen]))
    pictures.set_axis_off()
    pictures.set_title(f'{title}: the clip, and with {perturbation} where the mask is on', fontsize=9)
    bars.bar(range(frames), mask, color=['tab:orange' if any(a <= t < b for a, b in found.runs[0]) else '0.7'
                                         for t in range(frames)], width=1, edgecolor='white')
    bars.set(xlim=(-0.5, frames - 0.5), ylim=(0, 1), xlabel='frame of the clip', ylabel='mask')
    scores = [('OS, original', found.original), (f'FS, {perturbation}', found.freeze), ('RS, reversed', found.reverse)]
    drawn = left.barh(range(3), [float(value) for _, value in scores], tick_label=[name for name, _ in scores])
    left.invert_yaxis()
    left.bar_label(drawn, fmt='%.3f', padding=2, fontsize=8)
    left.set(xlim=(0, 1.15), xlabel='class score')
    right.plot(found.losses[0].cpu().numpy())
    right.set(xlabel='iteration', ylabel='loss (eq. 1)')
    return figure


def analyse(args) -> int:
    model, reader = clip_tool.open_model(args)
    loop = clip_tool.ClipLoop(reader, args)
    names = loop.names
    score_fn = RecognizerScores(model)
    figures = figure_files(args)
    rows, masks, losses, disjoint = [], {}, {}, []
    settings = dict(lambda1=args.lambda1, lambda2=args.lambda2, iterations=args.iterations, threshold=args.threshold,
                    chunk_size=args.chunk_size, perturbation=args.perturbation)

    def work(name, clip):
        target = loop.target_of(clip)
        if args.disjoint > 1:
            several = find_disjoint_masks(score_fn, clip.inputs, target, args.disjoint, **settings)
            disjoint.extend(dict(clip=name, mask=i, freeze=float(each.freeze[0]), original=float(each.original[0]),
                                 runs=' '.join(f'{start}-{stop - 1}' for start, stop in each.runs[0]))
                            for i, each in enumerate(several, 1))
            found = several[0]
        else:
            found = find_temporal_mask(score_fn, clip.inputs, target, **settings)
        mask, target = found.mask[0].cpu().numpy(), int(found.target[0])
        frozen = frozen_frames(clip.frames, mask, args.perturbation)
        figures.save(draw(clip, frozen, found, f'{clip.name}, {names[target]}', args.perturbation), args.out / name)
        film = with_timeline(beside([clip.frames, frozen]), mask)
        write_clip(args.out / f'{name}.{args.film}', film, args.fps)
        masks[name], losses[name] = mask, found.losses[0].cpu().numpy()
        rows.append(dict(
            clip=name, target=target, class_name=names[target], label=clip.label, original=float(found.original[0]),
            freeze=float(found.freeze[0]), reverse=float(found.reverse[0]),
            length=int(mask_length(mask[None], args.threshold)[0]), frames=len(mask),
            runs=' '.join(f'{start}-{stop - 1}' for start, stop in found.runs[0]), iterations=int(found.iterations[0])))

    loop(work)
    if disjoint:
        table = pd.DataFrame(disjoint)
        atomic_write_text(args.out / 'disjoint.csv', table.to_csv(index=False))
        print(table.to_string(index=False))
    if rows:
        table = pd.DataFrame(rows)
        atomic_write_text(args.out / 'masks.csv', table.to_csv(index=False))
        with atomic_open(args.out / 'masks.npz', 'wb') as file:
            np.savez_compressed(file, **{f'mask/{key}': value for key, value in masks.items()},
                                **{f'loss/{key}': value for key, value in losses.items()})
        scores = table['original'], table['freeze'], table['reverse']
        summary = {'mask length': summarize(table['length']), 'drop ratio': summarize(drop_ratio(*scores).values),
                   'drop difference': summarize(drop_difference(*scores))}
        print(table[['clip', 'class_name', 'original', 'freeze', 'reverse', 'length', 'runs']].to_string(index=False))
        clip_tool.write_summary(args.out / 'table_4.csv', summary, 'clips')
    return loop.exit_code()


def main(argv=None) -> int:
    parser = clip_tool.clip_parser(__doc__)
    parser.add_argument('--lambda1', type=float, default=0.01, help='weight of the length (default 0.01)')
    parser.add_argument('--lambda2', type=float, default=0.02, help='weight of the total variation (default 0.02)')
    parser.add_argument('--iterations', type=int, default=300, help='at most so many (default 300)')
    parser.add_argument('--threshold', type=float, default=0.1, help='from here a frame is in the mask (default 0.1)')
    parser.add_argument('--chunk-size', type=int, default=8, help='clips per forward pass; bounds memory (default 8)')
    parser.add_argument('--perturbation', choices=[name for name, how in PERTURBATIONS.items() if how.searched],
                        default='freeze', help='what is done to the frames of the mask (default freeze)')
    parser.add_argument('--disjoint', type=int, default=1, metavar='N',
                        help='search for up to N masks without common frames (default 1)')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
