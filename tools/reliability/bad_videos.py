"""What happens to unreadable videos: three experiments behind docs/reliability/bad_videos.md.

    python tools/reliability/bad_videos.py clips FOLDER             one line per real file, with and without the option
    python tools/reliability/bad_videos.py damage FOLDER            damage the files at random: does decord crash?
    python tools/reliability/bad_videos.py train --share 0.01 --clips FOLDER --out work_dirs/bad_videos

``train`` makes tiny videos, of which a share cannot be read (all kinds in turn, real ones from FOLDER too), adds
readable but odd ones, and trains a LeNet-5-3T for three epochs with two workers.
"""
import argparse
import io
import json
import os
import random
import select
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Callable, Dict, Iterator, Tuple

import cv2
import decord
import numpy as np
from mmaction.registry import DATASETS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from tconv_mmaction.transforms.decord_video import first_line
from tconv_mmaction.utils.lossless_video import write_video
from tconv_mmaction.utils.markdown import markdown_table

SAMPLE = dict(type='SampleFrames', clip_len=16, frame_interval=1)
PIPELINE = [dict(type='DecordInit'), SAMPLE, dict(type='DecordDecode'),
            dict(type='Resize', scale=(28, 28), keep_ratio=False),
            dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
ENDINGS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.mpg')


def in_child(action: Callable[[], str], seconds: float = 20.) -> str:
    """What ``action`` returns in a process of its own, or how that process ended. decord may take a process along."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            text = action()
        except Exception as error:
            text = f'error: {first_line(error)}'
        os.write(writer, text.encode()[:4000])
        os._exit(0)
    os.close(writer)
    answered = select.select([reader], [], [], seconds)[0]
    text = os.read(reader, 4000).decode() if answered else ''
    if not answered:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if text or not answered:
        return text or f'no end within {seconds:g} s'
    return f'crash: {signal.Signals(os.WTERMSIG(status)).name}' if os.WIFSIGNALED(status) else 'ended without a word'


def read_frames(source) -> str:
    """Open and decode eight frames over the whole video, as a training would some of them."""
    try:
        reader = decord.VideoReader(source, num_threads=1)
    except Exception:
        return 'error when opened'
    try:
        reader.get_batch(np.linspace(0, len(reader) - 1, 8).astype(int))
    except Exception:
        return 'error when decoded'
    return 'decoded'


def damages(data: bytes, rng: random.Random) -> Iterator[Tuple[str, bytes]]:
    """One file damaged in four ways."""
    yield 'cut off', data[:rng.randrange(1, len(data))]
    zeros, start, length = bytearray(data), rng.randrange(len(data)), rng.randrange(1, len(data) // 4)
    zeros[start:start + length] = bytes(len(zeros[start:start + length]))
    yield 'zeros in it', bytes(zeros)
    for name, count, end in (('8 wrong bytes in the first 2 KB', 8, 2048), ('200 wrong bytes', 200, len(data))):
        noise = bytearray(data)
        for _ in range(count):
            noise[rng.randrange(min(end, len(data)))] = rng.randrange(256)
        yield name, bytes(noise)


def damage(folder: Path, repeats: int, scratch: Path) -> None:
    """Print how often decord decodes, raises or crashes, given the bytes (mmaction2) or the path (here)."""
    counts: Dict[Tuple[str, str], Counter] = {}
    scratch.mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in folder.iterdir() if p.suffix in ENDINGS):
        data, rng = path.read_bytes(), random.Random(path.name)
        for _ in range(repeats):
            for name, damaged in damages(data, rng):
                file = scratch / f'damaged{path.suffix}'
                file.write_bytes(damaged)
                for how, source in (('bytes', lambda d=damaged: io.BytesIO(d)), ('path', lambda f=file: str(f))):
                    outcome = in_child(lambda source=source: read_frames(source()))
                    for row in ('all', name, f'cut off, {path.suffix}' if name == 'cut off' else None):
                        if row is not None:
                            counts.setdefault((row, how), Counter())[outcome] += 1
    outcomes = sorted({outcome for counter in counts.values() for outcome in counter})
    print(markdown_table(['damage', 'decord is given', *outcomes],
                         [[name, how, *(counter[outcome] for outcome in outcomes)]
                          for (name, how), counter in sorted(counts.items())]))


def one_file(path: Path, scratch: Path, test_mode: bool, **dataset) -> str:
    """What a data set of this file and a readable one gives for it."""
    write_video(scratch / 'good.mkv', np.zeros((20, 28, 28), dtype='uint8'))
    (scratch / 'list.txt').write_text(f'{path}|0\n{scratch / "good.mkv"}|1\n')
    steps = [dict(step, test_mode=test_mode) if step is SAMPLE else step for step in PIPELINE]
    data = DATASETS.build(dict(ann_file=str(scratch / 'list.txt'), delimiter='|', pipeline=steps, test_mode=test_mode,
                               data_prefix=dict(video=''), **dataset))
    label = int(data[0]['data_samples'].gt_label)
    return 'trained on' if label == 0 and not test_mode else 'scored' if label == 0 else 'replaced, listed'


def clips(folder: Path, scratch: Path) -> None:
    """Print a table of the real files."""
    from mmaction.datasets.transforms import DecordDecode, DecordInit
    scratch.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in ENDINGS):
        def alone(path=path) -> str:
            results = DecordInit()(dict(filename=str(path), start_index=0))
            results['frame_inds'] = np.linspace(0, results['total_frames'] - 1, 16).astype(int)
            DecordDecode()(results)
            return f'{results["total_frames"]} frames'

        cells = [in_child(alone)]
        for kwargs in (dict(type='VideoDataset', test_mode=False),
                       dict(type='TolerantVideoDataset', max_bad_share=1., test_mode=False,
                            bad_videos_file=str(scratch / 'bad.jsonl')),
                       dict(type='TolerantVideoDataset', test_mode=True)):
            # over-reporting files fail in some of the random clips only: ask several times
            seen = [in_child(lambda kwargs=kwargs, path=path, seed=seed: np.random.seed(seed) or one_file(
                path, scratch, **kwargs)) for seed in range(1 if kwargs['test_mode'] else 6)]
            seen = ['error that names it' if path.name in text else text for text in seen]
            cells.append(', '.join(f'{text} ({count} of {len(seen)})' if count < len(seen) else text
                                   for text, count in Counter(seen).items()))
        rows.append([path.name, *cells])
    print(markdown_table(['file', 'mmaction2 alone', 'here, VideoDataset', 'TolerantVideoDataset',
                          'either, in test mode'], rows))


def make_data(folder: Path, number: int, share: float, real: Path) -> Tuple[int, int]:
    """Videos of two classes, unreadable and odd ones among them, and list.txt; returns (all, unreadable)."""
    folder.mkdir(parents=True)
    bad, odd = [], []
    size = (64, 64)

    def encoded(name: str, code: str) -> bytes:
        writer = cv2.VideoWriter(str(folder / name), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*code), 30., size)
        for t in range(40):
            writer.write(np.roll(np.tile(np.arange(64, dtype='uint8') * 4, (64, 1)), t, 1)[..., None].repeat(3, 2))
        writer.release()
        data = (folder / name).read_bytes()
        (folder / name).unlink()
        return data

    mp4, avi = encoded('a.mp4', 'mp4v'), encoded('a.avi', 'MJPG')
    bad += [('cut.mp4', mp4[:len(mp4) // 2]), ('empty.mp4', b''), ('text.mp4', b'<html>Not Found</html>\n'),
            ('picture.mp4', cv2.imencode('.png', np.zeros((9, 9)))[1].tobytes()), ('noise.mkv', bytes(range(256)) * 40)]
    odd += [('cut.avi', avi[:len(avi) // 2]), ('avi_called.mp4', avi)]
    if real is not None:
        names = ('torchcodec_av1_video.mkv', 'decord_corrupted.mp4'), ('decord_video_90.mov', 'hmdb51_vtest.avi',
                 'twentybn_sense_test_video.mp4', 'ucf11_v_biking_01_01.mpg', 'torchcodec_h265_video.mp4')
        bad += [(name, (real / name).read_bytes()) for name in names[0]]
        odd += [(name, (real / name).read_bytes()) for name in names[1]]
    bad = [(f'bad{index:03d}_{name}', data) for index in range(round(number * share))
           for name, data in [bad[index % len(bad)]]]
    lines = []
    for name, data in bad + odd:
        (folder / name).write_bytes(data)
        lines.append(f'{name} 0\n')
    for index in range(number - len(lines)):
        clip = np.random.RandomState(index).randint(0, 60, (20, 28, 28), dtype='uint8')
        for t in range(20):
            square = (slice(10, 18), slice(t, t + 8))
            clip[(t, *square[::1 if index % 2 else -1])] = 255
        write_video(folder / f'v{index:04d}.mkv', clip)
        lines.append(f'v{index:04d}.mkv {index % 2}\n')
    random.Random(0).shuffle(lines)
    (folder / 'list.txt').write_text(''.join(lines))
    return len(lines), len(bad)


def train(out: Path, number: int, share: float, real: Path, workers: int) -> None:
    """Train, and say what was listed."""
    total, unreadable = make_data(out / 'videos', number, share, real)
    print(f'{total} videos, {unreadable} of them unreadable')
    model = dict(type='Recognizer3D',
                 backbone=dict(type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, clip_shape=(16, 28, 28)),
                 cls_head=dict(type='I3DHead', num_classes=2, in_channels=84),
                 data_preprocessor=dict(type='ActionDataPreprocessor', mean=[0.] * 3, std=[255.] * 3,
                                        format_shape='NCTHW'))
    dataset = dict(type='TolerantVideoDataset', ann_file=str(out / 'videos/list.txt'), pipeline=PIPELINE,
                   data_prefix=dict(video=str(out / 'videos')))
    runner = Runner.from_cfg(Config(dict(
        default_scope='mmaction', work_dir=str(out), model=model, randomness=dict(seed=0), experiment_name=out.name,
        train_dataloader=dict(batch_size=20, num_workers=workers, dataset=dataset,
                              sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=3), optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-3)),
        visualizer=dict(type='ActionVisualizer', vis_backends=[]))))
    try:
        runner.train()
    finally:
        entries = [json.loads(line) for line in (out / 'bad_videos.jsonl').read_text().splitlines()]
        names = {entry['file'] for entry in entries}
        print(f'iterations: {runner.iter}; bad_videos.jsonl: {len(entries)} lines, {len(names)} different files, '
              f'{sum(Path(name).name.startswith("bad") for name in names)} of them made unreadable')


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    for name in ('clips', 'damage'):
        sub = commands.add_parser(name)
        sub.add_argument('folder', type=Path, help='folder of video files')
        sub.add_argument('--scratch', type=Path, default=Path('work_dirs/bad_videos_scratch'), help='temporary files')
        if name == 'damage':
            sub.add_argument('--repeats', type=int, default=12, help='per file and kind of damage')
    sub = commands.add_parser('train')
    sub.add_argument('--share', type=float, default=0.01, help='of unreadable files')
    sub.add_argument('--number', type=int, default=1000, help='of videos')
    sub.add_argument('--clips', type=Path, help='folder with the real clips named in the script')
    sub.add_argument('--workers', type=int, default=2)
    sub.add_argument('--out', type=Path, default=Path('work_dirs/bad_videos'), help='new folder')
    args = parser.parse_args(argv)
    if args.command == 'clips':
        init_default_scope('mmaction')
        MMLogger.get_current_instance().setLevel('ERROR')
        clips(args.folder, args.scratch)
    elif args.command == 'damage':
        damage(args.folder, args.repeats, args.scratch)
    else:
        train(args.out, args.number, args.share, args.clips, args.workers)
    return 0


if __name__ == '__main__':
    sys.exit(main())
