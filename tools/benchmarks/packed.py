"""Clips per second of a whole training pipeline: packed videos against decoding videos and against folders of frames.

    python tools/benchmarks/packed.py --videos FOLDER --out-dir docs/benchmarks

32 frames at interval 1, at 112x112: Resize, Flip, FormatShape, PackActionInputs, batches of 8 as one tensor
(stacked_collate), a DataLoader with persistent workers. The packs and the folders of frames hold the frames at 112x112
already. Timed is an epoch of loaders that are warm; its number of clips is such that each takes seconds (the list is
repeated). Each round times all data sets in turn, for every number of workers, and the ratio is that of the round.

Without ``--videos`` four videos of 340x256 are made. ``equal`` counts the videos whose clip (the 32 frames in the
middle) has exactly the pixels of decoding and Resize; PSNR is of the clips of all videos. ``processor_ms`` is the time
of processors for one clip, all processes together: other programs on the machine hardly change it.
"""
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from mmaction.datasets import RawframeDataset, VideoDataset
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from tconv_mmaction.cli.timing import parser, report
from tconv_mmaction.datasets import PackedVideoDataset, stacked_collate
from tconv_mmaction.datasets.pack_worker import Pack
from tconv_mmaction.utils.packed_frames import PackReader, PackSettings, Row, read_index

SIDE, CLIP_LEN, BATCH = 112, 32, 8
VIDEO, RAWFRAMES, PACKED, PACKED_JPEG = ('VideoDataset', 'RawframeDataset (JPEG 95)', 'PackedVideoDataset (raw)',
                                         'PackedVideoDataset (JPEG 95)')
CLIPS = {VIDEO: 64, RAWFRAMES: 256, PACKED: 1024, PACKED_JPEG: 256}  # of an epoch


def pipeline(decode: Sequence[dict], test_mode: bool) -> List[dict]:
    return [*decode[:-1], dict(type='SampleFrames', clip_len=CLIP_LEN, frame_interval=1, num_clips=1,
                               test_mode=test_mode), decode[-1],
            dict(type='Resize', scale=(SIDE, SIDE), keep_ratio=False),
            *([] if test_mode else [dict(type='Flip', flip_ratio=0.5)]),
            dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]


class Data:
    """The same videos in the four forms, below ``folder``."""

    def __init__(self, folder: Path, videos: Path) -> None:
        self.folder, self.videos = folder, videos
        names = sorted(path.name for path in videos.iterdir() if path.is_file())
        for name, quality in (('packed', None), ('packed_jpeg', 95)):
            (folder / name).mkdir()
            PackSettings(size=(SIDE, SIDE), quality=quality).save(folder / name)
            pack = Pack(folder / name, PackSettings(size=(SIDE, SIDE), quality=quality), 1 << 30)()
            for video in list(names):
                if not isinstance(pack((video, str(videos / video))), Row):
                    print(f'left out, decord does not read it: {video}')
                    names.remove(video)
        self.names, self.counts = names, {}
        reader, index = PackReader(folder / 'packed'), read_index(folder / 'packed')
        for name in names:
            shard, row = index[name]
            self.counts[name] = row.frames
            (folder / 'frames' / name).mkdir(parents=True)
            for i, frame in enumerate(reader.frames(shard, row, range(row.frames)), 1):
                cv2.imwrite(str(folder / f'frames/{name}/img_{i:05}.jpg'), frame[..., ::-1],
                            [cv2.IMWRITE_JPEG_QUALITY, 95])

    def build(self, kind: str, clips: Optional[int] = None):
        """The data set with ``clips`` entries, or each video once and without random transforms."""
        names = self.names if clips is None else [self.names[i % len(self.names)] for i in range(clips)]
        frames = kind == RAWFRAMES
        path = self.folder / f'{"frames" if frames else "videos"}_{clips}.txt'
        path.write_text(''.join(f'{name}{f" {self.counts[name]}" if frames else ""} 0\n' for name in names),
                        encoding='utf-8')
        common = dict(ann_file=str(path), test_mode=clips is None)
        decord = pipeline([dict(type='DecordInit'), dict(type='DecordDecode')], clips is None)
        if kind == VIDEO:
            return VideoDataset(pipeline=decord, data_prefix=dict(video=str(self.videos)), **common)
        if frames:
            return RawframeDataset(pipeline=pipeline([dict(type='RawFrameDecode')], clips is None), start_index=1,
                                   data_prefix=dict(img=str(self.folder / 'frames')), **common)
        pack = self.folder / ('packed' if kind == PACKED else 'packed_jpeg')
        return PackedVideoDataset(pipeline=decord, data_prefix=dict(video=str(pack)), **common)


def pixels(data: Data) -> Dict[str, dict]:
    """How many videos' clips are exactly VideoDataset's, and the PSNR over all of them."""
    clips = {kind: [np.asarray(sample['inputs']) for sample in data.build(kind)] for kind in CLIPS}
    found = {}
    for kind, given in clips.items():
        squares = [np.mean((ours.astype(np.float64) - theirs) ** 2) for ours, theirs in zip(given, clips[VIDEO])]
        error = float(np.mean(squares))
        found[kind] = dict(equal=f'{sum(square == 0 for square in squares)} of {len(squares)}',
                           PSNR_dB=round(math.inf if error == 0 else 10 * math.log10(255 ** 2 / error), 1))
    return found


def processor_seconds(loader: DataLoader) -> float:
    """Of this process and the loader's workers so far; NaN where the system does not tell (no /proc)."""
    seconds = time.process_time()
    for worker in loader._iterator._workers if loader._iterator is not None else ():
        stat = Path(f'/proc/{worker.pid}/stat')
        if not stat.exists():
            return math.nan
        fields = stat.read_text().rpartition(')')[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')  # user and system
    return seconds


def epoch_seconds(loader: DataLoader, clips: int) -> Tuple[float, float]:
    """Seconds by the clock and of processors for one epoch."""
    start, before, count = time.perf_counter(), processor_seconds(loader), 0
    for batch in loader:
        count += len(batch['inputs'])
    if count != clips:
        raise RuntimeError(f'An epoch had {count} clips instead of {clips}.')
    return time.perf_counter() - start, processor_seconds(loader) - before


def rows(data: Data, args, workers: Sequence[int]) -> List[dict]:
    found, looks = [], pixels(data)
    for number in workers:
        rates, used = {kind: [] for kind in CLIPS}, {kind: [] for kind in CLIPS}
        loaders = {kind: DataLoader(data.build(kind, clips), batch_size=BATCH, num_workers=number, shuffle=True,
                                    collate_fn=stacked_collate, persistent_workers=number > 0)
                   for kind, clips in CLIPS.items()}
        for kind, loader in loaders.items():
            epoch_seconds(loader, CLIPS[kind])
        for i in range(args.rounds):
            for kind in list(CLIPS)[::1 if i % 2 == 0 else -1]:
                seconds, processors = epoch_seconds(loaders[kind], CLIPS[kind])
                rates[kind].append(CLIPS[kind] / seconds)
                used[kind].append(processors / CLIPS[kind])
        for kind, values in rates.items():
            times = np.array(values) / np.array(rates[VIDEO])
            low, high = np.percentile(times, [25, 75])
            found.append(dict(workers=number, data=kind, clips_per_s=round(float(np.median(values)), 1),
                              times_VideoDataset=round(float(np.median(times)), 2), quartiles=f'{low:.2f} - {high:.2f}',
                              processor_ms=round(float(np.median(used[kind])) * 1e3, 2), **looks[kind]))
        del loaders
    return found


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--videos', type=Path, help='folder of videos (default: four of 340x256 are made)')
    options.add_argument('--workers', type=int, nargs='+', default=[1, 2, 3, 4], help='of the loaders')
    args = options.parse_args(argv)
    if args.quick:
        args.rounds, args.workers = min(args.rounds, 2), args.workers[:1]
    init_default_scope('mmaction')
    cv2.setNumThreads(0)  # as our configs have it in workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.videos is None:
            from recipes import write_video
            (folder / 'videos').mkdir()
            for i in range(4):
                write_video(folder / f'videos/{i}.mp4', 340, 256, 80)
        data = Data(folder, args.videos or folder / 'videos')
        before = os.getloadavg()[0]
        found = rows(data, args, args.workers)
        report('packed', found, args, bars=False, how=f'medians of {args.rounds} interleaved rounds; {len(data.names)} '
               f'videos; load of the machine before: {before:.1f}')


if __name__ == '__main__':
    main()
