"""What is wrong with a file that should be a video, told from its first bytes and from the size that it states itself.

Nothing is decoded here. Containers that state their own length are compared with the file's: the RIFF size of AVI, the
boxes of MP4 and MOV (ISO/IEC 14496-12, sec. 4.2), the Segment element of Matroska and WebM (RFC 8794, sec. 6 and 7).
"""
import codecs
import os
from typing import BinaryIO, NamedTuple, Optional

_IMAGES = {b'\x89PNG': 'PNG', b'\xff\xd8\xff': 'JPEG', b'BM': 'BMP'}
_SEGMENT = b'\x18\x53\x80\x67'
CONVERT = 'convert it, e.g. ffmpeg -i IN -c:v libx264 -crf 18 OUT.mp4'


class Problem(NamedTuple):
    """``kind`` is one word for tables; ``text`` says it in a sentence with the way out."""
    kind: str
    text: str


def video_path(filename: str) -> str:
    """The file that mmaction2 opens for an entry of a list: names without an ending get '.mp4'."""
    return filename if os.path.splitext(filename)[0] != filename else filename + '.mp4'


def _mp4_boxes(file: BinaryIO, size: int):
    """(type, start, end) of the outermost boxes; the end of the last one may lie behind the end of the file."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], 'big')
        if length == 1:
            length = int.from_bytes(head[8:16], 'big')
        if length == 0:  # up to the end of the file
            length = size - start
        if length < 8:
            return
        yield head[4:8], start, start + length
        start += length


def _matroska_end(head: bytes) -> Optional[int]:
    """Where the Segment says that it ends; None where it does not say, as in live streams."""
    at = head.find(_SEGMENT)
    if at < 0 or at + 5 > len(head):
        return None
    at += len(_SEGMENT)
    width = 9 - head[at].bit_length()  # the leading zero bits of the first byte tell the length of the number
    value = int.from_bytes(head[at:at + width], 'big') & ((1 << 7 * width) - 1)
    return None if width > 8 or value == (1 << 7 * width) - 1 else at + width + value


def stated_size(path: str) -> Optional[int]:
    """The bytes that the container says it has, or None where it says nothing. A file with fewer was cut off."""
    size = os.path.getsize(path)
    with open(path, 'rb') as file:
        head = file.read(4096)
        if head[:4] == b'RIFF' and len(head) >= 12:
            return int.from_bytes(head[4:8], 'little') + 8
        if head[:4] == b'\x1aE\xdf\xa3':
            return _matroska_end(head)
        if head[4:8] in (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip'):
            return max((end for _, _, end in _mp4_boxes(file, size)), default=None)
    return None


def _is_av1(path: str) -> bool:
    """Whether the tables of an MP4 or the head of a Matroska file name AV1."""
    with open(path, 'rb') as file:
        head = file.read(65536)
        if b'V_AV1' in head or b'av01' in head[:64]:
            return True
        for kind, start, end in _mp4_boxes(file, os.path.getsize(path)):
            if kind == b'moov':
                file.seek(start)
                return b'av01' in file.read(min(end - start, 1 << 24))
    return False


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder('utf-8-sig')().decode(head)  # the head may end within a character
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in '\t\r\n' for character in text)


def find_problem(path: str) -> Problem:
    """The most likely reason why ``path`` cannot be decoded; 'damaged' when nothing simpler is seen."""
    if not os.path.exists(path):
        return Problem('missing', 'there is no such file: check data_prefix and the list')
    if not os.path.isfile(path):
        return Problem('no file', 'it is no file: check the list')
    if not os.access(path, os.R_OK):
        return Problem('no permission', 'this user may not read the file')
    size = os.path.getsize(path)
    if size == 0:
        return Problem('empty', 'the file has 0 bytes: fetch it again')
    with open(path, 'rb') as file:
        head = file.read(256)
    for magic, name in _IMAGES.items():
        if head.startswith(magic):
            return Problem('image', f'the file is a {name} image, no video')
    if _is_text(head):
        return Problem('text', 'the file holds text, no video (a saved error page?): fetch it again')
    if _is_av1(path):
        return Problem('av1', f'the file is AV1, which decord 0.6 cannot decode: {CONVERT}')
    stated = stated_size(path)
    if stated is not None and stated > size:
        return Problem('truncated', f'the file was cut off: it states {stated} bytes and has {size}: fetch it again')
    return Problem('damaged', f'the file is damaged, or its format is unknown to decord: fetch it again or {CONVERT}')
