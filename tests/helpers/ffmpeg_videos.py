"""Videos of every odd kind, made with the ffmpeg of the system, and what ffmpeg and ffprobe say of a video."""
import json
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest

SOURCE = ['-f', 'lavfi', '-i', 'testsrc2=size=96x64:rate=25:duration=1.6']  # 40 frames that all differ
TONE = ['-f', 'lavfi', '-i', 'sine=frequency=440:duration=1.6']
H264 = ['-c:v', 'libx264', '-preset', 'ultrafast', '-g', '12', '-bf', '2', '-pix_fmt', 'yuv420p']
MPEG4 = ['-c:v', 'mpeg4', '-g', '12', '-bf', '2', '-q:v', '3']
VFR = "setpts='(N+floor(N/3)*2)/25/TB'"  # 1, 1, 3, 1, 1, 3, ... twenty-fifths of a second

# name -> arguments of ffmpeg between its input and the name of the file
KINDS: Dict[str, List[str]] = {
    'plain.mp4': H264,
    'plain.mkv': H264,
    'variable_rate.mp4': ['-vf', VFR, '-vsync', 'vfr', *H264],
    'variable_rate.mkv': ['-vf', VFR, '-vsync', 'vfr', *H264],
    'ten_bit.mp4': ['-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p10le'],
    'ten_bit_hevc.mkv': ['-c:v', 'libx265', '-preset', 'ultrafast', '-x265-params', 'log-level=none:pools=1',
                         '-pix_fmt', 'yuv420p10le'],
    'colours_444.mp4': ['-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv444p'],
    'alpha_vp9.webm': ['-vf', 'format=yuva420p', '-c:v', 'libvpx-vp9', '-deadline', 'realtime', '-cpu-used', '8',
                       '-auto-alt-ref', '0'],
    'alpha_png.mov': ['-vf', 'format=rgba', '-c:v', 'png'],
    'alpha_prores.mov': ['-c:v', 'prores_ks', '-pix_fmt', 'yuva444p10le'],
    'odd_size.mp4': ['-vf', 'scale=53:37', '-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv444p'],
    'odd_size_420.webm': ['-vf', 'scale=53:37', '-c:v', 'libvpx-vp9', '-deadline', 'realtime', '-cpu-used', '8'],
    'odd_size.avi': ['-vf', 'scale=53:37', '-c:v', 'mjpeg', '-pix_fmt', 'yuvj420p'],
    'audio_first.mp4': ['-map', '1:a', '-map', '0:v', '-c:a', 'aac', *H264],
    'audio_first.mkv': ['-map', '1:a', '-map', '0:v', '-c:a', 'aac', *H264],
    'mpeg4_b_frames.avi': MPEG4,
    'mpeg4_b_frames.mp4': MPEG4,
    'mpeg1.mpg': ['-c:v', 'mpeg1video', '-g', '12', '-bf', '2'],
    'mpeg2.ts': ['-c:v', 'mpeg2video', '-g', '12', '-bf', '2'],
    'h264.ts': H264,
    'fragmented.mp4': [*H264, '-movflags', 'frag_keyframe+empty_moov'],
    'vp8_alt_ref.webm': ['-c:v', 'libvpx', '-deadline', 'good', '-cpu-used', '5', '-auto-alt-ref', '1',
                         '-lag-in-frames', '12', '-b:v', '200k'],
    'vp9_alt_ref.webm': ['-c:v', 'libvpx-vp9', '-deadline', 'good', '-cpu-used', '5', '-auto-alt-ref', '1',
                         '-lag-in-frames', '12', '-b:v', '200k'],
    'interlaced.mp4': ['-c:v', 'libx264', '-preset', 'ultrafast', '-flags', '+ildct+ilme', '-x264opts', 'tff=1',
                       '-pix_fmt', 'yuv420p'],
    'open_gop.mp4': ['-c:v', 'libx264', '-preset', 'fast', '-x264opts', 'open-gop=1:keyint=12:bframes=3:b-adapt=0',
                     '-pix_fmt', 'yuv420p'],
}
# made of another one without encoding again: name -> (which, arguments before the input, and after it)
CUT = {
    'rotated_90.mp4': ('plain.mp4', [], ['-c', 'copy', '-metadata:s:v', 'rotate=90']),
    'rotated_180.mov': ('plain.mp4', [], ['-c', 'copy', '-metadata:s:v', 'rotate=180']),
    'edit_list.mp4': ('plain.mp4', ['-ss', '0.6'], ['-c', 'copy']),
    'edit_list_open_gop.mp4': ('open_gop.mp4', ['-ss', '0.7'], ['-c', 'copy']),
    'no_key_frame_first.ts': ('h264.ts', [], ['-c', 'copy', '-bsf:v', 'noise=drop=lt(n\\,5)']),
    'no_key_frame_first.mkv': ('plain.mkv', [], ['-c', 'copy', '-bsf:v', 'noise=drop=lt(n\\,5)']),
    'no_key_frame_first.avi': ('mpeg4_b_frames.avi', [], ['-c', 'copy', '-bsf:v', 'noise=drop=lt(n\\,5)']),
}


def needs_ffmpeg() -> None:
    """Skips the test where the system has no ffmpeg."""
    for program in ('ffmpeg', 'ffprobe'):
        if shutil.which(program) is None:
            pytest.skip(f'needs the program {program} (Debian: apt-get install ffmpeg), which is not on the PATH')


def make(folder: Path, name: str) -> Path:
    """The video of that name in ``folder``, made if it is not there; skips where this ffmpeg lacks the encoder."""
    path = folder / name
    if path.exists():
        return path
    if name in CUT:
        other, before, after = CUT[name]
        call = [*before, '-i', str(make(folder, other)), *after]
    else:
        call = [*SOURCE, *(TONE if 'audio' in name else []), *KINDS[name]]
    done = subprocess.run(['ffmpeg', '-v', 'error', '-nostdin', '-threads', '1', *call, str(path)],
                          capture_output=True, text=True)
    if done.returncode or not path.exists():
        path.unlink(missing_ok=True)
        if 'Unknown encoder' in done.stderr or 'Unrecognized option' in done.stderr:
            pytest.skip(f'this ffmpeg cannot make {name}: {done.stderr.strip()[:200]}')
        raise AssertionError(f'{name}: {done.stderr}')
    return path


def ffmpeg_frames(path: Path) -> np.ndarray:
    """Every frame (T, H, W, 3) uint8 RGB that ffmpeg decodes, turned as the file says, none repeated or left out."""
    size = probe(path, '-show_entries', 'stream=width,height:stream_side_data=rotation')['streams'][0]
    turned = any(side.get('rotation', 0) % 180 for side in size.get('side_data_list', []))
    height, width = (size['width'], size['height']) if turned else (size['height'], size['width'])
    done = subprocess.run(['ffmpeg', '-v', 'quiet', '-nostdin', '-threads', '1', '-flags', 'bitexact', '-i', str(path),
                           '-map', '0:v:0', '-vsync', 'passthrough', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'],
                          capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def probe(path: Path, *more: str) -> dict:
    """What ffprobe says of the first video stream."""
    done = subprocess.run(['ffprobe', '-v', 'quiet', '-select_streams', 'v:0', '-of', 'json', *more, str(path)],
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def probed_times(path: Path) -> np.ndarray:
    """Seconds at which ffprobe shows each decoded frame; NaN where it does not say."""
    frames = probe(path, '-show_frames', '-show_entries', 'frame=best_effort_timestamp_time')['frames']
    return np.array([float(frame.get('best_effort_timestamp_time', 'nan')) for frame in frames])
