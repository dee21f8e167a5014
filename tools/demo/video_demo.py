"""Write a video again with what a network says of it while it plays: the labels and scores of a sliding window.

    python tools/demo/video_demo.py CONFIG CHECKPOINT VIDEO --out out.mp4 --classes classes.txt [--top 3]

Every --stride frames the last --window frames go through the test pipeline of the config (one view: the middle clip and
crop) and the network, and the caption changes: it tells about the frames that have been seen, never about those to
come, and says 'waiting' until the first window is full. A video shorter than the window is one window.
Without --window the test pipeline's own sampling decides, and is printed: where it takes a stretch of a fixed length,
that is the window; where it takes frames of the whole video, the video has one prediction, which is shown all the time.
--scores FILE.csv keeps the numbers.

out.mp4 is H.264 where OpenCV has an encoder for it and VP9 otherwise, .webm is VP9; browsers play all three. Nothing is
installed for it: no moviepy, no ffmpeg.
"""
import argparse
import csv
import io
import sys
from pathlib import Path

import cv2
import decord
import matplotlib
import numpy as np
import torch
from mmaction.apis import ActionRecogInferencer
from mmengine.config import DictAction
from PIL import Image, ImageDraw, ImageFont

from tconv_mmaction.cli.clip_sampling import ClipSampling, clip_sampling
from tconv_mmaction.cli.mistakes import exit_code
from tconv_mmaction.interpret.access.clips import ClipReader, load_recognizer
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.browser_video import CODECS, write_video
from tconv_mmaction.utils.config_file import read_config

INK, PAPER, BAR = (255, 255, 255), (20, 20, 20), (190, 95, 20)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a recognizer')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('video', help='the video')
    parser.add_argument('--out', required=True, help='video to write, .mp4 or .webm')
    parser.add_argument('--classes', help='file with one class name per line (default: the names that the checkpoint '
                        'has)')
    parser.add_argument('--window', type=int, help='frames that a prediction sees (default: what a clip of the test '
                        'pipeline covers, which may be the whole video)')
    parser.add_argument('--stride', type=int, help='frames between two predictions (default: a quarter of the window)')
    parser.add_argument('--top', type=int, default=1, help='labels to show (default 1)')
    parser.add_argument('--scores', help='csv file for the scores of every window')
    parser.add_argument('--height', type=int, default=240, help='smaller videos are enlarged by a whole number until '
                        'they are at least so many pixels high (default 240)')
    parser.add_argument('--batch-size', type=int, default=4, help='windows at a time (default 4)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='default: CUDA if there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={}, help='changes to the config')
    args = parser.parse_args(argv)
    if Path(args.out).suffix.lower() not in CODECS:
        parser.error(f'--out must end in {" or ".join(CODECS)}, got {args.out}')
    for name in ('window', 'stride', 'top', 'height', 'batch_size'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1, got {getattr(args, name)}')
    return args


def sampling_text(sampling, window, count):
    """Which frames a prediction is about, in a sentence."""
    if window is None:
        return (f'{sampling.frames} frames of the whole video ({count}), as the test pipeline takes them: '
                f'{sampling.sampler}. One prediction, shown all the time; --window N gives one every few frames.')
    whose = f'as the test pipeline takes them: {sampling.sampler}' if window == sampling.span else (
        f'by --window; the test pipeline is {sampling.sampler}' +
        ('' if sampling.span else ', made for whole videos: give the length of those that the network was trained on'))
    return f'{sampling.frames} frames of every window of {window}, {whose}.'


def window_ends(count, window, stride):
    """The last frames of the windows: the first full one, every ``stride`` frames, and the end of the video."""
    if count <= window:
        return [count - 1]
    ends = list(range(window - 1, count, stride))
    return ends if ends[-1] == count - 1 else [*ends, count - 1]


def predict(inferencer, reader, ends, window, batch_size):
    """Scores ``(len(ends), K)``; the frames of one batch of windows are in memory at a time."""
    scores = []
    for start in range(0, len(ends), batch_size):
        clips = [reader.get_batch(range(max(0, end - window + 1), end + 1)).asnumpy()
                 for end in ends[start:start + batch_size]]
        done = inferencer(clips, batch_size=batch_size, return_datasamples=False)['predictions']
        scores += [prediction['pred_scores'] for prediction in done]
    return np.array(scores)


class Captions:
    """The strip below the picture: labels with their scores as numbers and bars. The last one is kept."""

    def __init__(self, width, lines, names):
        self.width, self.names = width, names
        self.row = max(18, min(36, width // 16))
        self.shape = (lines * self.row, width, 3)
        file = Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'  # has most alphabets
        self.font = ImageFont.truetype(str(file), round(.62 * self.row))
        self.key, self.image = None, None

    def __call__(self, text):
        """``text``: [(class, score)] best first, or a word."""
        if text != self.key:
            image = Image.fromarray(np.full(self.shape, PAPER, np.uint8))
            draw = ImageDraw.Draw(image)
            for i, line in enumerate([text] if isinstance(text, str) else text):
                y = i * self.row
                if not isinstance(line, str):
                    k, score = line
                    draw.rectangle((0, y + 1, max(0, round(score * self.width) - 1), y + self.row - 2), fill=BAR)
                    line = f'{score:.2f}  {self.names[k]}'
                draw.text((6, y + .12 * self.row), line, fill=INK, font=self.font)
            self.key, self.image = text, np.asarray(image)
        return self.image


def captioned(reader, ends, scores, captions, top, factor):
    """The frames of the new video, one after the other."""
    current = -1
    for t in range(len(reader)):
        while current + 1 < len(ends) and ends[current + 1] <= t:
            current += 1
        if len(ends) == 1:  # a short video: its one prediction is shown all the time
            current = 0
        text = 'waiting'
        if current >= 0:
            best = np.argsort(-scores[current], kind='stable')[:top]
            text = [(int(k), float(scores[current][k])) for k in best]
        frame = reader[t].asnumpy()
        if factor > 1:
            frame = cv2.resize(frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
        yield np.concatenate([frame, captions(text)])


def main(argv=None):
    args = parse_args(argv)
    if not Path(args.video).is_file():
        raise FileNotFoundError(f'there is no video {args.video}')
    try:
        reader = decord.VideoReader(args.video)
    except (decord.DECORDError, RuntimeError) as error:
        raise ValueError(f'{args.video} cannot be decoded: {error}') from error
    model = load_recognizer(args.config, args.checkpoint, 'cpu', args.cfg_options)  # says what does not fit
    names = ClipReader(model).class_names(args.classes)
    del model
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options)
    fps = reader.get_avg_fps()
    try:
        sampling = clip_sampling(config, fps)
    except ValueError:
        if not args.window:
            raise
        sampling = ClipSampling('one that does not say what it takes', 0, None)
    window = args.window or sampling.span
    kind = 'array' if window else 'video'
    inferencer = ActionRecogInferencer(config, args.checkpoint, args.device, input_format=kind)
    inferencer.show_progress = False
    if inferencer.model.cls_head.average_clips != 'prob':
        inferencer.model.cls_head.average_clips = 'prob'  # the captions show probabilities
    print(sampling_text(sampling, window, len(reader)))
    if window:
        ends = window_ends(len(reader), window, args.stride or max(1, window // 4))
        scores = predict(inferencer, reader, ends, window, args.batch_size)
    else:  # the pipeline reads the frames that it wants, however long the video is
        window, ends = len(reader), [len(reader) - 1]
        done = inferencer([args.video], return_datasamples=False)['predictions']
        scores = np.array([prediction['pred_scores'] for prediction in done])
    height, width = reader[0].shape[:2]
    factor = -(-args.height // height) if height < args.height else 1
    top = min(args.top, len(names))
    captions = Captions(width * factor, top, names)
    codec = write_video(args.out, captioned(reader, ends, scores, captions, top, factor), fps)
    if args.scores:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(['first_frame', 'last_frame', 'seconds', *names])
        table.writerows([max(0, end - window + 1), end, f'{(end + 1) / fps:.3f}', *(f'{s:.6f}' for s in row)]
                        for end, row in zip(ends, scores))
        atomic_write_text(args.scores, text.getvalue())
    changes = [names[k] for k in scores.argmax(1)]
    print(f'{len(reader)} frames, {len(ends)} windows of {min(window, len(reader))}: '
          f'{", then ".join(n for i, n in enumerate(changes) if i == 0 or changes[i - 1] != n)}\n'
          f'written to {args.out} ({codec})')


if __name__ == '__main__':
    sys.exit(exit_code(main))
