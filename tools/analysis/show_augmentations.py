"""One clip with and without random sampling rate and random camera ego-motion, as in Fig. 3 of the paper.

    python tools/analysis/show_augmentations.py VIDEO --out augmentations.png

Rows: the clip at the test interval with a crop that stands still; the clip at other intervals; the whole images with
the crop's box when it drifts, and what the crop sees then. Every picture has its frame's number in the video.
Kobayashi and Ye, "Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification" (WACV 2024), sec. 4.
"""
import argparse
import random
import sys
from pathlib import Path
from typing import List, NamedTuple, Optional

import tconv_mmaction  # noqa: F401  first: mmaction2 loads on today's PyTorch with it

# isort: split
import numpy as np
from decord import DECORDError
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmaction.registry import TRANSFORMS
from mmengine.registry import init_default_scope

from tconv_mmaction.cli.figure_options import add_figure_arguments
from tconv_mmaction.interpret.pictures.figure_files import check_figure, save_figure
from tconv_mmaction.transforms.ego_motion import moving_offsets


class Row(NamedTuple):
    """A row of pictures: its title, frames (H, W, 3), their numbers, and the boxes (x, y, w, h) to draw, if any."""
    title: str
    images: List[np.ndarray]
    frame_inds: np.ndarray
    boxes: Optional[np.ndarray] = None


def decode(path: str, clip_len: int, **sampling) -> dict:
    results = dict(filename=str(path), start_index=0, label=0, modality='RGB')
    try:
        for cfg in (dict(type='DecordInit'), dict(type='RandomRateSampleFrames', clip_len=clip_len, **sampling),
                    dict(type='DecordDecode')):
            results = TRANSFORMS.build(cfg)(results)
    except DECORDError as error:
        raise ValueError(f'decord cannot read {path}: {error}') from error
    return results


def make_rows(video: str, clip_len: int, intervals, test_interval: int, sigma: float, crop_size: int) -> List[Row]:
    """All rows of the figure; the random numbers are NumPy's and Python's global ones."""
    still = decode(video, clip_len, test_interval=test_interval, test_mode=True)
    state = np.random.get_state()
    plain = TRANSFORMS.build(dict(type='EgoMotionCrop', crop_size=crop_size, sigma=0))(dict(still))
    np.random.set_state(state)  # the same box to start from
    moving = TRANSFORMS.build(dict(type='EgoMotionCrop', crop_size=crop_size, sigma=sigma))(dict(still))
    rows = [Row(f'interval {test_interval}, still crop', plain['imgs'], still['frame_inds'])]
    for interval in intervals:
        clip = decode(video, clip_len, frame_intervals=(interval, interval))
        x, y = plain['crop_bbox'][:2]
        rows.append(Row(f'interval {interval}', [img[y:y + crop_size, x:x + crop_size] for img in clip['imgs']],
                        clip['frame_inds']))
    height, width = still['imgs'][0].shape[:2]
    offsets = moving_offsets(plain['crop_bbox'][:2], moving['ego_velocity'], clip_len,
                             (width - crop_size, height - crop_size))
    v_x, v_y = moving['ego_velocity'][0]
    title = f'ego-motion ({v_x:+.1f}, {v_y:+.1f}) px per frame'
    rows.append(Row(title, still['imgs'], still['frame_inds'],
                    np.column_stack([offsets, np.full((clip_len, 2), crop_size)])))
    rows.append(Row('what the crop sees', moving['imgs'], still['frame_inds']))
    return rows


def draw(rows: List[Row]) -> Figure:
    columns = len(rows[0].images)
    figure = Figure(figsize=(1.5 * columns, 1.55 * len(rows)), layout='constrained')
    for axes, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows):
        axes[0].set_title(row.title, loc='left', fontsize=9)
        for i, (axis, image) in enumerate(zip(axes, row.images)):
            axis.imshow(image)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_xlabel(f'frame {row.frame_inds[i]}', fontsize=7)
            if row.boxes is not None:
                x, y, w, h = row.boxes[i]
                axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor='yellow', linewidth=1.5))
    return figure


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('video')
    parser.add_argument('--out', required=True, help='figure to write: .png, .pdf or .svg')
    parser.add_argument('--clip-len', type=int, default=6, help='pictures per row (default 6)')
    parser.add_argument('--intervals', type=int, nargs='+', default=[1, 4], help='intervals to show (default 1 4)')
    parser.add_argument('--test-interval', type=int, default=2)
    parser.add_argument('--sigma', type=float, default=2., help='pixels per frame (default 2)')
    parser.add_argument('--crop-size', type=int, help='pixels (default 7/8 of the shorter side, as 224 of 256)')
    parser.add_argument('--seed', type=int, default=0)
    add_figure_arguments(parser, format=False)
    args = parser.parse_args(argv)
    check_figure(Path(args.out).suffix[1:].lower(), args.dpi, args.width)
    if not Path(args.video).is_file():
        raise FileNotFoundError(f'there is no video {args.video}')
    init_default_scope('mmaction')
    np.random.seed(args.seed)
    random.seed(args.seed)
    shorter = min(decode(args.video, 1)['imgs'][0].shape[:2])
    rows = make_rows(args.video, args.clip_len, args.intervals, args.test_interval, args.sigma,
                     args.crop_size or shorter * 7 // 8)
    save_figure(draw(rows), args.out, args.dpi, args.width)
    print(f'written to {args.out}')


if __name__ == '__main__':
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(f'show_augmentations: {error}', file=sys.stderr)
        sys.exit(2)
