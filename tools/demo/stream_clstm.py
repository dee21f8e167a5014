"""Classify a video with a C-LSTM while it plays, frame by frame and in constant memory.

    tools/demo/stream_clstm.py VIDEO CONFIG CHECKPOINT --classes data/kth/classes.txt

    frame    0  step  1   0.31  walking
    frame    1  step  2   0.34  walking
    ...

With a head over the last step, every frame is a step, and the line of frame t is what the network says of the clip
that ends there: frames 0 ... t. With a head over all steps, the steps are the frames that the config's sampler takes
from the whole video, and the line of step k is the softmax of b + sum_{s<=k} W_s f_s, the score with the features of
later steps at 0; the last one is the clip's score. Both equal the network run on the whole clip at once.
"""
import argparse
import sys
from collections import deque
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple, Optional, Sequence, Tuple

import decord
import numpy as np
import torch
from mmaction.apis import init_recognizer
from mmaction.registry import TRANSFORMS
from mmaction.structures import ActionDataSample
from mmcv.transforms import Compose
from torch import Tensor, nn

from tconv_mmaction.backbones import ConvLSTMNet
from tconv_mmaction.heads import SequenceHead


class Step(NamedTuple):
    """The result after one more step: frame number, number of steps so far, class probabilities ``(K,)``."""
    frame: int
    steps: int
    probabilities: Tensor


class StreamClassifier:
    """A C-LSTM that is fed one frame at a time; it keeps h and c of every cell and the K scores, nothing else.

    Args:
        model: a recognizer with ConvLSTMNet and SequenceHead.
        image_pipeline: transforms that stand between decoding and ``FormatShape``, applied to single frames.
    """

    def __init__(self, model: nn.Module, image_pipeline: Sequence[dict] = ()) -> None:
        if not isinstance(model.backbone, ConvLSTMNet) or not isinstance(model.cls_head, SequenceHead):
            raise ValueError('streaming needs a ConvLSTMNet with a SequenceHead, got '
                             f'{type(model.backbone).__name__} with {type(model.cls_head).__name__}.')
        self.model = model.eval()
        self.pipeline = Compose([TRANSFORMS.build(t) for t in (*image_pipeline, dict(
            type='FormatShape', input_format='NCTHW'))])
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.state, self.scores, self.steps = None, self.model.cls_head.fc_cls.bias.detach(), 0

    @torch.no_grad()
    def push(self, frame: np.ndarray) -> Tensor:
        """The next frame ``(H, W, 3)`` RGB, uint8, to the class probabilities ``(K,)`` so far."""
        shape = frame.shape[:2]
        results = dict(imgs=[frame], img_shape=shape, original_shape=shape, modality='RGB', num_clips=1, clip_len=1)
        clip = torch.from_numpy(np.ascontiguousarray(self.pipeline(results)['imgs']))  # 1, 3, 1, H, W
        data = self.model.data_preprocessor(dict(inputs=[clip], data_samples=[ActionDataSample()]), training=False)
        features, self.state = self.model.backbone.stream(data['inputs'][:, 0], self.state)
        head = self.model.cls_head
        new = head.step_scores(features[:, :, 0], self.steps)[0]
        self.scores = new + (head.fc_cls.bias if head.steps == 'last' else self.scores)
        self.steps += 1
        return self.scores.softmax(-1)


def classify(classifier: StreamClassifier, frames: Iterable[np.ndarray],
             wanted: Optional[Sequence[int]] = None) -> Iterator[Step]:
    """Feed the frames of a stream, or those whose numbers are in ``wanted`` (sorted; repeated ones repeatedly)."""
    queue = None if wanted is None else deque(wanted)
    for number, frame in enumerate(frames):
        if queue is None:
            yield Step(number, classifier.steps + 1, classifier.push(frame))
            continue
        while queue and queue[0] == number:
            queue.popleft()
            yield Step(number, classifier.steps + 1, classifier.push(frame))
        if not queue:
            return


def read_frames(reader: decord.VideoReader) -> Iterator[np.ndarray]:
    """One decoded frame after the other, until the end or the first that does not decode."""
    for _ in range(len(reader)):
        try:
            yield reader.next().asnumpy()
        except (StopIteration, decord.DECORDError):
            return


def split_pipeline(pipeline: Sequence[dict]) -> Tuple[dict, list]:
    """The sampler of a config's test pipeline, and its image transforms: what stands between Decode and FormatShape."""
    types = [t['type'] for t in pipeline]
    decode = next((i for i, name in enumerate(types) if name.endswith('Decode')), None)
    sampler = next((t for t in pipeline if 'Sample' in t['type']), None)
    if decode is None or sampler is None or 'FormatShape' not in types[decode:]:
        raise ValueError(f'the test pipeline must sample, decode and end in FormatShape, got {types}.')
    return sampler, list(pipeline[decode + 1:types.index('FormatShape')])


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('video')
    parser.add_argument('config', help='of a C-LSTM')
    parser.add_argument('checkpoint')
    parser.add_argument('--classes', type=Path, help='class names, one per line (default: numbers)')
    parser.add_argument('--sampled', action='store_true',
                        help="also for a head over the last step: take the frames of the config's sampler only")
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args(argv)
    try:
        for path in (args.video, args.config, args.checkpoint):
            if not Path(path).is_file():
                raise FileNotFoundError(f'{path} is no file.')
        model = init_recognizer(args.config, args.checkpoint, device=args.device)
        sampler, image_pipeline = split_pipeline(model.cfg.test_dataloader.dataset.pipeline)
        classifier = StreamClassifier(model, image_pipeline)
        names = args.classes.read_text(encoding='utf-8').splitlines() if args.classes else None
        if names is not None and len(names) != model.cls_head.num_classes:
            raise ValueError(f'{args.classes} has {len(names)} names for {model.cls_head.num_classes} classes.')
        reader = decord.VideoReader(args.video)
        wanted = None
        if args.sampled or model.cls_head.steps == 'all':
            sampled = TRANSFORMS.build(sampler)(dict(total_frames=len(reader), start_index=0))
            wanted = np.ravel(sampled['frame_inds']).tolist()
            if sampled['num_clips'] != 1 or wanted != sorted(wanted):
                raise ValueError(f'{sampler} takes {sampled["num_clips"]} clips; a stream needs one, in order.')
        last = None
        for last in classify(classifier, read_frames(reader), wanted):
            best = int(last.probabilities.argmax())
            print(f'frame {last.frame:4d}  step {last.steps:3d}   {last.probabilities[best]:.2f}  '
                  f'{names[best] if names else best}')
        if last is None:
            raise ValueError(f'no frame of {args.video} can be decoded.')
    except (OSError, ValueError, decord.DECORDError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    expected = len(reader) if wanted is None else len(wanted)
    if last.steps < expected:
        print(f'{args.video} ended after frame {last.frame}: {last.steps} of {expected} steps', file=sys.stderr)
    return 0


if __name__ == '__main__':
    sys.exit(main())
