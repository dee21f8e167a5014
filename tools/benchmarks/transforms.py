"""Decoding and transforms of one training clip: RandomRateSampleFrames and EgoMotionCrop against mmaction2's own.

    python tools/benchmarks/transforms.py VIDEO --out-dir docs/benchmarks

Both pipelines decode 32 frames at interval 2 (``frame_intervals=(2, 2)``, so that the work is the same), resize and
crop to 224x224, in one process. Without a VIDEO one of 340x256 and 120 frames is made.
"""
import tempfile
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

import tconv_mmaction  # noqa: F401
from tconv_mmaction.cli.timing import interleave, parser, report, rows_against

HEAD, DECODE = [dict(type='DecordInit')], [dict(type='DecordDecode'), dict(type='Resize', scale=(-1, 256))]
TAIL = [dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]
THEIRS = [*HEAD, dict(type='SampleFrames', clip_len=32, frame_interval=2, num_clips=1), *DECODE,
          dict(type='RandomResizedCrop'), dict(type='Resize', scale=(224, 224), keep_ratio=False), *TAIL]
OURS = [*HEAD, dict(type='RandomRateSampleFrames', clip_len=32, frame_intervals=(2, 2)), *DECODE,
        dict(type='EgoMotionCrop', area_range=(0.08, 1.0), aspect_ratio_range=(3 / 4, 4 / 3), sigma=2.0),
        dict(type='Resize', scale=(224, 224), keep_ratio=False), *TAIL]


def make_video(folder: Path) -> Path:
    path = folder / 'moving.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 25, (340, 256))
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
    for t in range(120):
        writer.write(np.ascontiguousarray(picture[t:t + 256, 2 * t:2 * t + 340]))
    writer.release()
    return path


def main() -> None:
    options = parser(__doc__)
    options.add_argument('video', nargs='?', help='a video of at least 64 frames')
    args = options.parse_args()
    if args.quick:
        args.rounds = min(args.rounds, 5)
    init_default_scope('mmaction')
    with tempfile.TemporaryDirectory() as folder:
        video = args.video or str(make_video(Path(folder)))
        theirs, ours = Compose(THEIRS), Compose(OURS)

        def run(pipeline):
            # the same start of the clip and the same box for both, in every round
            def once():
                np.random.seed(0)
                pipeline(dict(filename=video, label=0, start_index=0, modality='RGB'))
            return once

        candidates = {'SampleFrames + RandomResizedCrop': run(theirs),
                      'RandomRateSampleFrames + EgoMotionCrop': run(ours)}
        seconds = interleave(candidates, args.rounds, 'cpu')
    report('transforms', rows_against('SampleFrames + RandomResizedCrop', seconds,
                                      clip='32 frames, interval 2, 224x224'), args)


if __name__ == '__main__':
    main()
