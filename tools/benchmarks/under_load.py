"""Training steps and eval while data workers decode at full speed on the same processors.

    python tools/benchmarks/under_load.py --out-dir docs/benchmarks

A training shares its processors with its data workers. Small parallel regions then wait for a thread that has lost its
processor to a worker, so a network of many short operations can lose more than one of few long ones. Here
``--decoders`` processes read, resize and stack clips of 32 frames at 340x256 without a pause, as the workers of a
loader do that cannot keep up, and the networks of models.py's case are timed beside them, in turn; once without and
once with them, for as many threads of PyTorch as there are processors and for one.
"""
import multiprocessing
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence

import cv2
import numpy as np
import torch
from models import CASES, build, training_step

from tconv_mmaction.cli.timing import inference, interleave, parser, positive, report, rows_against
from tconv_mmaction.utils.lossless_video import write_video

CASE = '3t-resnet18'


def decode_without_end(path: str, started) -> None:
    """What a data worker does, without a pause: decode 32 frames, resize them to 112x112, stack."""
    import decord
    cv2.setNumThreads(0)
    while True:
        frames = decord.VideoReader(path, num_threads=1).get_batch(range(32)).asnumpy()
        np.stack([cv2.resize(frame, (112, 112)) for frame in frames])
        started.set()


def time_both(models, x, labels, rounds: int, device: str, **what) -> List[dict]:
    peer = next(iter(models))
    steps = {key: training_step(model.train(), x, labels) for key, model in models.items()}
    rows = rows_against(peer, interleave(steps, rounds, device, warmup=2), **what, mode='training step')
    seconds = interleave({key: inference(model.eval(), x) for key, model in models.items()}, rounds, device, warmup=2)
    return rows + rows_against(peer, seconds, **what, mode='eval')


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--decoders', type=positive, default=2, help='processes that decode (default 2)')
    options.set_defaults(rounds=9)
    args = options.parse_args(argv)
    case = CASES[CASE]
    size, batch = ((4, 32, 32), 2) if args.quick else (case.size, case.batch)
    rounds = min(args.rounds, 3) if args.quick else args.rounds
    models = {key: build(backbone, args.device) for key, backbone in case.networks.items()}
    x = torch.randn(batch, 3, *size, device=args.device)
    labels = torch.zeros(batch, dtype=torch.long, device=args.device)
    with torch.no_grad():
        for model in models.values():
            model(x)  # makes the lazy layer
    most, rows = torch.get_num_threads(), []
    context = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'clip.mkv'
        rng = np.random.default_rng(0)
        small = rng.integers(0, 256, (48, 16, 20), dtype=np.uint8)
        write_video(path, np.stack([cv2.resize(frame, (340, 256)) for frame in small]))
        for decoders in (0, args.decoders):
            started = [context.Event() for _ in range(decoders)]
            processes = [context.Process(target=decode_without_end, args=(str(path), event), daemon=True)
                         for event in started]
            try:
                for process in processes:
                    process.start()
                for event in started:
                    if not event.wait(120):
                        raise RuntimeError('A decoder did not decode its first clip within two minutes.')
                for threads in sorted({most, 1}, reverse=True):
                    torch.set_num_threads(threads)
                    case_name = f'{decoders} decoders, {threads} thread{"s" * (threads > 1)}'
                    rows += time_both(models, x, labels, rounds, args.device, case=case_name)
                    print(f'{decoders} decoders, {threads} threads done', flush=True)
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.join()
    torch.set_num_threads(most)
    report('under_load', [{**row, 'rounds': rounds} for row in rows], args)


if __name__ == '__main__':
    main()
