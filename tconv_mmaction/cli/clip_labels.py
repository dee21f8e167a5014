"""The true classes of video files: from a list, or from the folders that they are in."""
import os
from pathlib import PurePath
from typing import Dict, List, Sequence, Tuple

from ..interpret.access.targets import class_index
from ..utils.text_files import read_lines

FOLDER = 'folder'


def video_labels(source: str, videos: Sequence[str], names: Sequence[str]) -> List[Tuple[int, ...]]:
    """The classes of every video, in the order of the videos.

    Args:
        source: 'folder' where each class has a folder of its videos, or the path of a list with a line per video: its
            path, as far as it tells it apart, and its class or classes (mmaction2's lists; a name or an index). Blanks
            part the two; in a .csv file or a line with tabs, commas or tabs do.
        videos: paths.
        names: of the classes.

    Raises:
        FileNotFoundError: if there is no such list.
        ValueError: if a folder or an entry of the list is no class, a video is not in the list, or is there twice with
            other classes; the message names the videos.
    """
    if source == FOLDER:
        return [_of_folder(path, names) for path in videos]
    entries = _entries(source, {PurePath(path).name for path in videos})
    absent = [path for path in videos if not _matches(path, entries)]
    if absent:
        raise ValueError(f'{source} has no line for {len(absent)} of {len(videos)} video(s): '
                         f'{", ".join(absent[:5])}{", ..." if len(absent) > 5 else ""}. A line is a path and a class.')
    return [_of_list(source, path, _matches(path, entries), names) for path in videos]


def _of_folder(path: str, names: Sequence[str]) -> Tuple[int, ...]:
    folder = os.path.basename(os.path.dirname(os.path.abspath(path)))
    try:
        return (class_index(folder, names), )
    except ValueError as error:
        raise ValueError(f'--labels {FOLDER}: {path} lies in {folder!r}, and {error}') from error


def _entries(source: str, files: set) -> Dict[str, List[List[str]]]:
    """{path in the list: the words behind it, per line}. A path may hold blanks: each cut that fits a file counts."""
    found: Dict[str, List[List[str]]] = {}
    for line in read_lines(source):
        line = line.strip()
        mark = '\t' if '\t' in line else ',' if str(source).lower().endswith('.csv') else ' '
        words = line.split(mark)
        for cut in range(1, len(words)):
            path = mark.join(words[:cut]).strip().replace('\\', '/')
            if PurePath(path).name in files:
                found.setdefault(path, []).append([word.strip() for word in words[cut:] if word.strip()])
    return found


def _matches(path: str, entries: Dict[str, List[List[str]]]) -> List[List[str]]:
    """The lines of the longest path in the list that the video's path ends in."""
    parts = PurePath(os.path.abspath(path)).parts
    for start in range(len(parts)):
        name = '/'.join(parts[start:]).replace('//', '/')
        if name in entries:
            return entries[name]
    return []


def _of_list(source: str, path: str, lines: List[List[str]], names: Sequence[str]) -> Tuple[int, ...]:
    try:
        found = {_classes(words, names) for words in lines}
    except ValueError as error:
        raise ValueError(f'{source}, {path}: {error}') from error
    if len(found) > 1:
        raise ValueError(f'{source} has {path} with different classes: {sorted(found)}. Write more of its path.')
    return found.pop()


def _classes(words: Sequence[str], names: Sequence[str]) -> Tuple[int, ...]:
    whole = ' '.join(words)
    if not words:
        raise ValueError('there is no class behind it.')
    if len(words) == 1 or whole in names:
        return (class_index(whole, names), )
    try:
        return tuple(sorted({class_index(word, names) for word in words}))
    except ValueError:
        return (class_index(whole, names), )
