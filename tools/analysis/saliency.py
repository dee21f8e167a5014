"""Which pixels drive a class, and which channels of a layer a clip excites: saliency and activation maximisation.

    python tools/analysis/saliency.py CONFIG CKPT VIDEO... --out DIR [--layer backbone.conv2 --channels 5]

Writes, per clip, NAME.png and NAME.mp4 (frames and saliency of the class) and NAME.npz (numbers). With --layer also
NAME_channels.png, one row per channel that the clip activates most: the frame with the strongest saliency, the saliency
there, the input that maximises the channel and, for a 3T layer, how its filter zooms, turns and moves over its slices
(Ras et al., arXiv:2006.15983, Fig. 3). For 3T layers the maximising input is one frame, stacked; for others a clip, of
which the middle frame is shown.
"""
import sys

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import figure_files
from tconv_mmaction.interpret import (
    RecognizerScores,
    channel_saliency,
    integrated_gradients,
    kernel_sizes,
    maximize_activation,
    most_active_channels,
    saliency,
    smooth_grad,
    strongest_frame,
    temporal_parameters,
)
from tconv_mmaction.interpret.access.modules import choose_target, frozen
from tconv_mmaction.interpret.maximize_activation import colour_axes
from tconv_mmaction.interpret.pictures.kernel_slices import draw_motion, motion_reaches
from tconv_mmaction.interpret.pictures.rendering import beside, heat, strip, write_clip, write_image
from tconv_mmaction.interpret.trajectories import filter_trajectory
from tconv_mmaction.utils import atomic_open, atomic_write_text

METHODS = {'integrated_gradients': integrated_gradients, 'smooth_grad': smooth_grad, 'saliency': saliency}


def displayed(image: torch.Tensor) -> np.ndarray:
    """(C, H, W) in the network's space as (H, W) or (H, W, 3) in [0, 1]."""
    array = image.cpu().numpy()
    array = (array - array.min()) / max(float(np.ptp(array)), 1e-12)
    return array.transpose(1, 2, 0) if len(array) == 3 else array.mean(0)


def draw_channels(clip, layer, channels, maps, maximal, trajectories) -> Figure:
    columns = 3 + (3 if trajectories else 0)
    reaches, longest = motion_reaches(trajectories), max([len(t.zoom) for t in trajectories], default=0)
    figure = Figure(figsize=(2.1 * columns, 2.1 * len(channels)), layout='constrained')
    for row, (axes, channel) in enumerate(zip(figure.subplots(len(channels), columns, squeeze=False), channels)):
        frame = int(strongest_frame(maps[row:row + 1])[0])
        pictures = (clip.frames[frame], maps[row, frame].clamp(min=0).cpu().numpy(),
                    displayed(maximal[row, :, maximal.size(2) // 2]))
        titles = (f'channel {channel}: frame {frame}', 'saliency', 'maximises')
        for axis, picture, title in zip(axes, pictures, titles):
            axis.imshow(picture, cmap='gray' if picture.ndim == 2 else None)
            axis.set_axis_off()
            axis.set_title(title, fontsize=8)
        if trajectories:
            draw_motion(axes[3:], trajectories[row], longest, reaches)
            for axis, title in zip(axes[3:], ('zoom', 'clockwise (degrees)', 'path (pixels of the kernel)')):
                axis.set_title(title, fontsize=8)
                axis.tick_params(labelsize=7)
                axis.yaxis.label.set_size(7)
    figure.suptitle(f'{clip.name}: most active channels of {layer}', fontsize=10)
    return figure


def analyse(args) -> int:
    model, loop, names = clip_tool.open_loop(args)
    score_fn = RecognizerScores(model, 'logits')
    method = METHODS[args.method]
    parameters = temporal_parameters(model).get(args.layer)
    has_motion = parameters is not None and len(parameters['scale']) > 0
    figures, rows = figure_files(args), []

    def work(name, clip):
        with frozen(model), torch.no_grad():
            target = int(choose_target(score_fn(clip.inputs), loop.target_of(clip))[0])
        numbers = dict(saliency=method(model, clip.inputs, target)[0].cpu().numpy(), target=target)
        shown = heat(numbers['saliency'])
        write_image(args.out / f'{name}.png', strip([clip.frames, shown]))
        write_clip(args.out / f'{name}.{args.film}', beside([clip.frames, shown]), args.fps)
        if args.layer is not None:
            active = most_active_channels(model, clip.inputs, args.layer, args.channels)
            channels = active.channels[0].tolist()
            maps = channel_saliency(model, clip.inputs, args.layer, channels, method)
            best = maximize_activation(
                model, args.layer, channels, clip.inputs.shape[1:], 'frame' if has_motion else 'clip', steps=args.steps,
                value_range=(float(clip.inputs.min()), float(clip.inputs.max())), colours=colour_axes(clip.inputs),
                relative=True, tv=2.)
            trajectories = [filter_trajectory(parameters, channel, kernel_sizes(model)[args.layer])
                            for channel in channels] if has_motion else []
            figures.save(draw_channels(clip, args.layer, channels, maps, best.clip, trajectories),
                         args.out / f'{name}_channels')
            numbers.update(channels=channels, activations=active.activations[0].cpu().numpy(),
                           channel_saliency=maps.cpu().numpy(), maximal_input=best.clip.cpu().numpy(),
                           maximal_activation=best.activation.cpu().numpy())
            rows.extend(dict(clip=name, layer=args.layer, channel=channel, activation=float(value),
                             maximal_activation=float(top), frame=int(frame)) for channel, value, top, frame in
                        zip(channels, active.activations[0], best.activation[-1], strongest_frame(maps)))
        with atomic_open(args.out / f'{name}.npz', 'wb') as file:
            np.savez_compressed(file, **numbers)
        print(f'{name}: {names[target]}')

    loop(work)
    if rows:
        table = pd.DataFrame(rows)
        atomic_write_text(args.out / 'channels.csv', table.to_csv(index=False))
        print(table.to_string(index=False))
    if loop.done:
        print(f'written to {args.out}')
    return loop.exit_code()


def main(argv=None) -> int:
    parser = clip_tool.clip_parser(__doc__)
    parser.add_argument('--layer', help='dotted name of a layer whose channels to look at')
    parser.add_argument('--channels', type=int, default=5, help='how many of its channels (default 5)')
    parser.add_argument('--steps', type=int, default=256, help='of the activation maximisation (default 256)')
    parser.add_argument('--method', choices=list(METHODS), default='integrated_gradients',
                        help='how the pixels are found (default integrated_gradients)')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
