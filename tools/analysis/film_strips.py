"""Clips as film strips for a paper: frames, Grad-CAM and temporal mask, one model or several side by side.

    python tools/analysis/film_strips.py CONFIG CKPT VIDEO... --out DIR --format pdf --width 174
    python tools/analysis/film_strips.py CONFIG CKPT --dataset test --limit 4 --compare CONFIG2 CKPT2 --out DIR

Figure 2 of Maenttaeri, Broome et al. (ACCV 2020). Writes per clip the figure NAME and NAME.npz (per model mask,
Grad-CAM of the layer, scores), and strips.csv (class, layer, OS, FS, RS, CS and the frames of the mask). The bar is red
with an F where frames are frozen since the class needs their motion, and green elsewhere. All models explain the class
of --target: by default what the first model predicts.
"""
import sys

import numpy as np
import pandas as pd
import torch

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import figure_files
from tconv_mmaction.cli.several_models import add_compare_arguments, chosen_titles, pair_up
from tconv_mmaction.interpret import (
    RecognizerScores,
    find_temporal_mask,
    freeze_frames,
    grad_cam,
    normalise_maps,
    upsample_maps,
)
from tconv_mmaction.interpret.access.clips import ClipReader, load_recognizer
from tconv_mmaction.interpret.access.default_layer import last_map_layer
from tconv_mmaction.interpret.access.modules import choose_target, frozen
from tconv_mmaction.interpret.pictures.film_strip import Strip, draw_film_strips
from tconv_mmaction.interpret.pictures.rendering import overlay
from tconv_mmaction.utils import atomic_open, atomic_write_text


def frozen_frames(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The pictures as the mask freezes them."""
    clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float()
    return freeze_frames(clip, torch.from_numpy(mask)[None])[0].permute(1, 2, 3, 0).round().byte().numpy()


class Readers(ClipReader):
    """Reads a clip for the first model, and keeps in ``clips`` what all of them see of it."""

    def __init__(self, models, view) -> None:
        super().__init__(models[0], view)
        self.others, self.clips = [ClipReader(model, view) for model in models[1:]], []

    def video(self, path):
        self.clips = [super().video(path), *(reader.video(path) for reader in self.others)]
        return self.clips[0]

    def sample(self, split, index):
        self.clips = [super().sample(split, index), *(reader.sample(split, index) for reader in self.others)]
        return self.clips[0]


def strip_of(title, model, clip, target: int, names, args):
    """(strip, numbers) of one model on one clip."""
    score_fn = RecognizerScores(model)
    layer = args.layer or last_map_layer(model, score_fn, clip.inputs)
    maps = grad_cam(model, clip.inputs, target, layer)
    shown = normalise_maps(upsample_maps(maps, clip.frames.shape[:3]))[0].cpu().numpy()
    found = find_temporal_mask(score_fn, clip.inputs, target, iterations=args.iterations, threshold=args.threshold)
    mask = found.mask[0].cpu().numpy()
    with frozen(model), torch.no_grad():
        scores = score_fn(clip.inputs)[0]
    wrong = clip.label is not None and clip.label != target
    strip = Strip(
        title, clip.frames, names[target], float(found.original[0]), overlay(clip.frames, shown), layer,
        frozen_frames(clip.frames, mask), mask, found.runs[0], float(found.freeze[0]), float(found.reverse[0]),
        names[clip.label] if wrong else None, float(scores[clip.label]) if wrong else None)
    return strip, dict(mask=mask, grad_cam=maps[0].cpu().numpy(), scores=scores.cpu().numpy())


def row_of(name: str, strip: Strip) -> dict:
    return dict(clip=name, model=strip.title, class_name=strip.class_name, layer=strip.layer, OS=strip.original,
                FS=strip.freeze, RS=strip.reverse, truth=strip.truth, CS=strip.correct,
                runs=' '.join(f'{start}-{stop - 1}' for start, stop in strip.runs), frames=len(strip.mask))


def analyse(args) -> int:
    files = figure_files(args)
    pairs = pair_up(args.config, args.checkpoint, args.compare)
    titles = chosen_titles(pairs, args.titles)
    models = [load_recognizer(*pair, args.device, args.cfg_options) for pair in pairs]
    readers = Readers(models, args.view)
    loop = clip_tool.ClipLoop(readers, args)
    names = loop.names
    rows = []

    def work(name, clip):
        with frozen(models[0]), torch.no_grad():
            target = int(choose_target(RecognizerScores(models[0])(clip.inputs), loop.target_of(clip))[0])
        strips, numbers = [], {'target': target}
        for model_title, model, own in zip(titles, models, readers.clips):
            own = own._replace(label=clip.label)
            strip, found = strip_of(model_title, model, own, target, names, args)
            strips.append(strip)
            numbers.update({f'{model_title}/{key}': value for key, value in found.items()})
        files.save(draw_film_strips(strips, clip.name, files.width), args.out / name)
        with atomic_open(args.out / f'{name}.npz', 'wb') as file:
            np.savez_compressed(file, **numbers)
        rows.extend(row_of(name, strip) for strip in strips)

    loop(work)
    if rows:
        table = pd.DataFrame(rows)
        atomic_write_text(args.out / 'strips.csv', table.to_csv(index=False))
        print(table.drop(columns=['layer', 'frames']).to_string(index=False, float_format='{:.3f}'.format))
        print(f'written to {args.out}')
    return loop.exit_code()


def main(argv=None) -> int:
    parser = clip_tool.clip_parser(__doc__)
    add_compare_arguments(parser)
    parser.add_argument('--layer', help="of Grad-CAM, of all models (default: each backbone's last layer whose maps "
                        'have several time steps and pixels)')
    parser.add_argument('--iterations', type=int, default=300, help='of the search for the mask, at most (default 300)')
    parser.add_argument('--threshold', type=float, default=0.1, help='from here a frame is in the mask (default 0.1)')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
