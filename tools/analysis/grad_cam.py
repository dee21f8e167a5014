"""Where a layer sees a class, frame by frame: Grad-CAM over time (Maenttaeri et al., ACCV 2020, sec. 3.2, Table 3).

    python tools/analysis/grad_cam.py CONFIG CKPT VIDEO... --out DIR [--layer backbone.layer4]
    python tools/analysis/grad_cam.py CONFIG CKPT --dataset test --target label --out DIR

Writes, per clip, NAME.png (frames and overlay), NAME.mp4 (side by side) and NAME.npz (the layer's maps as they are);
for all clips blobs.csv (blob count, size and centre distance) and table_3.csv (their mean and standard deviation).
A map is that of one time step of the layer, and counts once. Where a map is nowhere positive, nothing in the layer
speaks for the class: picture, film and blobs.csv say so.
"""
import sys

import numpy as np
import pandas as pd
import torch

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.interpret import RecognizerScores, blob_metrics, grad_cam, normalise_maps, summarize, upsample_maps
from tconv_mmaction.interpret.access.default_layer import default_layers
from tconv_mmaction.interpret.access.modules import choose_target, frozen
from tconv_mmaction.interpret.comparison.blob_metrics import maps_at_frame_size
from tconv_mmaction.interpret.grad_cam import nothing_speaks, nothing_text
from tconv_mmaction.interpret.pictures.notice import with_notice
from tconv_mmaction.interpret.pictures.rendering import beside, overlay, strip, write_clip, write_image
from tconv_mmaction.utils import atomic_open, atomic_write_text


def analyse(args) -> int:
    model, loop, names = clip_tool.open_loop(args)
    score_fn = RecognizerScores(model)
    rows, blobs = [], {}

    def work(name, clip):
        layers = [args.layer] if args.layer else default_layers(model, score_fn, clip.inputs)
        for layer in layers:  # a pathway each
            one_layer(name if len(layers) == 1 else f'{name}-{layer}', clip, layer)

    def one_layer(name, clip, layer):
        with frozen(model), torch.no_grad():
            scores = score_fn(clip.inputs)
        target = int(choose_target(scores, loop.target_of(clip))[0])
        maps = grad_cam(model, clip.inputs, target, layer, args.weights)
        shown = normalise_maps(upsample_maps(maps, clip.frames.shape[:3]))[0].cpu()
        painted = overlay(clip.frames, shown.numpy())
        picture, film = strip([clip.frames, painted]), beside([clip.frames, painted])
        note = nothing_text(layer, names[target]) if nothing_speaks(maps).item() else (
            f'{layer} has one time step: where, not when' if maps.size(1) == 1 else '')
        if note:  # without it the overlay would be the clip itself, or the same map under every frame
            picture, film = with_notice(picture, note), with_notice(film, note)
            print(f'{name}: {note}')
        write_image(args.out / f'{name}.png', picture)
        write_clip(args.out / f'{name}.{args.film}', film, args.fps)
        with atomic_open(args.out / f'{name}.npz', 'wb') as file:
            np.savez_compressed(file, maps=maps[0].cpu().numpy(), target=target, layer=layer)
        found = blob_metrics(maps_at_frame_size(maps, *clip.frames.shape[1:3])[0].cpu())
        blobs.setdefault(layer, []).append(found)
        rows.append(dict(clip=name, layer=layer, target=target, class_name=names[target],
                         score=float(scores[0, target]), label=clip.label, maps=maps.size(1),
                         blob_count=summarize(found.counts).mean, blob_size=summarize(found.sizes).mean,
                         centre_distance=summarize(found.distances).mean, note=note))

    loop(work)
    if rows:
        table = pd.DataFrame(rows)
        atomic_write_text(args.out / 'blobs.csv', table.to_csv(index=False))
        summary = {title if len(blobs) == 1 else f'{title}, {layer}': summarize(np.concatenate(
            [getattr(one, key) for one in found])) for layer, found in blobs.items() for title, key in
            (('blob count', 'counts'), ('blob size', 'sizes'), ('centre distance', 'distances'))}
        print(table[['clip', 'layer', 'class_name', 'score', 'blob_count']].to_string(index=False))
        clip_tool.write_summary(args.out / 'table_3.csv', summary, 'count')
    return loop.exit_code()


def main(argv=None) -> int:
    parser = clip_tool.clip_parser(__doc__)
    parser.add_argument('--layer', help="dotted name (default: the backbone's last layer whose maps have several time "
                        'steps and pixels)')
    parser.add_argument('--weights', choices=('frame', 'clip'), default='frame',
                        help='weights per time step (eq. 2, default) or averaged over the clip')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
