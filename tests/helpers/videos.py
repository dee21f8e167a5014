"""Video files for tests: frames in any codec that OpenCV writes, AVIs by hand, and folders of them as a data set."""
import json
import struct

import cv2
import numpy as np

from tconv_mmaction.utils.lossless_video import write_video

DECODE = [dict(type='DecordInit'), dict(type='SampleFrames', clip_len=4, frame_interval=1), dict(type='DecordDecode')]
ENCODED = {}  # a video per grey value
PIPELINE = [*DECODE, dict(type='FormatShape', input_format='NCTHW'), dict(type='PackActionInputs')]


CODES = {'.mp4': 'mp4v', '.avi': 'MJPG', '.mkv': 'FFV1'}


def write_film(path, frames, code=None, fps=10.):
    """Frames (H, W, 3), in BGR, or grey ones (H, W), with OpenCV; the codec goes with the file's ending."""
    frames = [np.ascontiguousarray(frame) for frame in frames]
    height, width = frames[0].shape[:2]
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter_fourcc(*(code or CODES[path.suffix]))
    writer = cv2.VideoWriter(str(path), code, fps, (width, height), frames[0].ndim == 3)
    assert writer.isOpened(), f'this OpenCV does not write {path.name}'
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def moving_square(frames, size=(48, 64), side=10, start=0, brightest=63):
    """A bright square that moves right, 2 pixels per frame, over a gradient: (T, H, W, 3)."""
    height, width = size
    film = np.tile(np.linspace(0, brightest, width, dtype=np.uint8), (frames, height, 1))[..., None].repeat(3, 3)
    for t, image in enumerate(film):
        x = (start + 2 * t) % (width - side)
        image[(height - side) // 2:(height + side) // 2, x:x + side] = (40, 120, 250)
    return film


def write_avi(path, frames):
    """A Motion-JPEG AVI of (T, H, W, 3) frames by hand: OpenCV writes no odd sizes and no wrong headers."""
    count, height, width = frames.shape[:3]

    def chunk(name, data):
        return name + struct.pack('<I', len(data)) + data + b'\0' * (len(data) % 2)

    jpegs = [cv2.imencode('.jpg', frame, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes() for frame in frames]
    avih = struct.pack('<14I', 33333, 0, 0, 0x10, count, 0, 1, 0, width, height, 0, 0, 0, 0)
    strh = struct.pack('<4s4sIHHIIIIIIII4H', b'vids', b'MJPG', *[0] * 4, 1, 30, 0, count, *[0] * 5, width, height)
    strf = struct.pack('<IiiHH4sIiiII', 40, width, height, 1, 24, b'MJPG', 3 * width * height, 0, 0, 0, 0)
    streams = chunk(b'LIST', b'strl' + chunk(b'strh', strh) + chunk(b'strf', strf))
    movie, index = b'movi', b''
    for jpeg in jpegs:
        index += b'00dc' + struct.pack('<III', 0x10, len(movie), len(jpeg))
        movie += chunk(b'00dc', jpeg)
    body = b'AVI ' + chunk(b'LIST', b'hdrl' + chunk(b'avih', avih) + streams) + chunk(b'LIST', movie)
    body += chunk(b'idx1', index)
    path.write_bytes(b'RIFF' + struct.pack('<I', len(body)) + body)


def smooth_clip(count, height, width):
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 100, width))
    return np.stack([np.repeat((ramp + 3 * t)[..., None], 3, 2) for t in range(count)]).astype('uint8')


def make_videos(folder, good, bad=()):
    """``good`` lossless videos whose pixels have the value of their index (modulo 40), and bad ones; a list of all."""
    folder.mkdir(exist_ok=True)
    names = [f'v{index:03d}.mkv' for index in range(good)]
    for index, name in enumerate(names):
        value = index % 40
        if value not in ENCODED:
            write_video(folder / name, np.full((6, 20, 20), value, dtype='uint8'))
            ENCODED[value] = (folder / name).read_bytes()
        (folder / name).write_bytes(ENCODED[value])
    for index, data in enumerate(bad):
        names.insert((index * 37 + 3) % (len(names) + 1), f'bad{index}.mp4')
        (folder / f'bad{index}.mp4').write_bytes(data)
    (folder / 'list.txt').write_text(''.join(f'{name} {index % 2}\n' for index, name in enumerate(names)))
    return names


def dataset_cfg(folder, **kwargs):
    return dict(dict(type='TolerantVideoDataset', ann_file=str(folder / 'list.txt'), pipeline=PIPELINE,
                     data_prefix=dict(video=str(folder)), bad_videos_file=str(folder / 'bad.jsonl')), **kwargs)


def listed(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
