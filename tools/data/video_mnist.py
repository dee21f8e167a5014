"""Video-MNIST as lossless video files with annotation lists, the same videos as the VideoMNIST dataset draws.

    OUT/train/00000.mkv, ...   grey FFV1 in Matroska; the number is that of the digit image in its split
    OUT/train.txt              "train/00000.mkv 7", mmaction2's VideoDataset form, paths relative to OUT
    OUT/train.json             what the videos were made from

Each file is read back with decord, and kept only if its frames are the drawn ones, bit by bit. A list is written
when all its videos are there. A run that was interrupted goes on where it stopped.
"""
import argparse
import json
import sys
import zlib
from pathlib import Path

from mmengine.utils import ProgressBar

from tconv_mmaction.datasets import VideoMNIST
from tconv_mmaction.datasets.digit_images import SPLITS
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.lossless_video import write_video


def write_split(dataset: VideoMNIST, out: Path) -> int:
    """Write what is missing of a split, then its list. Returns how many videos were there already."""
    split, folder = dataset.split, out / dataset.split
    made_from = dict(seed=dataset.seed, num_frames=dataset.num_frames, size=dataset.size,
                     images=len(dataset.images), images_crc32=zlib.crc32(dataset.images.tobytes()))
    record = out / f'{split}.json'
    if record.is_file():
        before = json.loads(record.read_text())
        if before != made_from:
            raise ValueError(f'{folder} holds videos made from {before}, and these would be made from {made_from}. '
                             f'Choose another folder, or delete this one and {record.name}.')
    elif folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f'{folder} is not empty, and without {record.name} beside it nobody knows what is in it. '
                         'Choose another folder.')
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(record, json.dumps(made_from) + '\n')
    lines, kept = [], 0
    progress = ProgressBar(len(dataset), file=sys.stdout)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        path = folder / f"{info['source_index']:05d}.mkv"
        if path.is_file():
            kept += 1
        else:
            write_video(path, dataset.frames(i))
        lines.append(f"{path.relative_to(out).as_posix()} {info['label']}\n")
        progress.update()
    print()
    atomic_write_text(out / f'{split}.txt', ''.join(lines))
    return kept


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for the videos and lists')
    parser.add_argument('--data-root', help="folder with MNIST's idx files (default: scikit-learn's digits)")
    parser.add_argument('--split', nargs='+', choices=SPLITS, default=SPLITS, help='which splits (default: all)')
    parser.add_argument('--videos-per-class', type=int, help='a random subset, equal for all classes (default: all)')
    parser.add_argument('--subset-seed', type=int, default=0, help='draws the subset')
    parser.add_argument('--num-frames', type=int, default=30, help='frames per video')
    parser.add_argument('--size', type=int, default=28, help='side of a frame in pixels, even')
    parser.add_argument('--seed', type=int, default=0, help='draws the motions')
    args = parser.parse_args(argv)
    if args.size % 2:
        parser.error(f'--size {args.size} is odd, and OpenCV writes videos of even sides only.')
    try:
        for split in args.split:
            dataset = VideoMNIST(
                pipeline=[], split=split, data_root=args.data_root, videos_per_class=args.videos_per_class,
                subset_seed=args.subset_seed, num_frames=args.num_frames, size=args.size, seed=args.seed)
            kept = write_split(dataset, args.out)
            print(f'{args.out / split}.txt: {len(dataset)} videos, {kept} of them from an earlier run')
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(f"In a config: dict(type='VideoDataset', ann_file='{args.out / args.split[0]}.txt', "
          f"data_prefix=dict(video='{args.out}')). DecordDecode gives three equal channels.")
    return 0


if __name__ == '__main__':
    sys.exit(main())
