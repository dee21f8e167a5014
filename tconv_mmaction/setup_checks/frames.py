"""Folders of frames: do the names that RawFrameDecode will open exist?

It opens ``filename_tmpl.format(number)`` for numbers from ``start_index`` on. A wrong template fails at the first clip,
a folder that counts from 0 only at a clip that happens to draw its last frame.
"""
import os
import re
from typing import Any, List, Optional, Sequence, Tuple

from .lists import Entry
from .problems import Problems

ROLES = dict(RGB=(), Flow=('x', 'y'))


def frame_name(template: str, number: int, modality: str) -> Optional[str]:
    """The file name that RawFrameDecode opens, None if the template cannot be filled in."""
    try:
        return template.format('x', number) if modality == 'Flow' else template.format(number)
    except (IndexError, KeyError, ValueError):
        return None


def numbered(folder: str) -> Tuple[Optional[str], List[int], List[str]]:
    """(template, numbers, names) of the image files of a folder; the template that most of them share."""
    names = sorted(name for name in os.listdir(folder)
                   if name.lower().endswith(('.jpg', '.jpeg', '.png', '.bmp', '.webp')))
    found: dict = {}
    for name in names:
        parts = re.fullmatch(r'(.*?)(\d+)(\.\w+)', name)
        if parts:
            digits = parts[2]
            found.setdefault((parts[1], parts[3]), []).append(digits)
    if not found:
        return None, [], names
    (prefix, suffix), digits = max(found.items(), key=lambda item: len(item[1]))
    widths = {len(text) for text in digits}
    placeholder = f'{{:0{min(widths)}}}' if min(widths) > 1 else '{}'
    return f'{prefix}{placeholder}{suffix}', sorted(map(int, digits)), names


def check_frames(entries: Sequence[Entry], folder: str, cfg: Any, form: Any, list_path: str, key: str,
                 problems: Problems) -> None:
    """Look for the first and the last frame of each entry; the first entry that lacks one is named, with a way out.

    Args:
        entries: lines to look at, each of a folder that is there.
        folder: what their paths count from.
        cfg: the data set's, for filename_tmpl, start_index and modality.
        form: of the list.
        list_path: for the message.
        key: of the data set.
        problems: what is found goes there.
    """
    template, start = cfg.get('filename_tmpl', 'img_{:05}.jpg'), cfg.get('start_index', 1)
    modality = cfg.get('modality', 'RGB')
    if not isinstance(template, str) or modality not in ROLES:
        return
    one, two = (frame_name(template, number, modality) for number in (1, 2))
    if one is None or one == two:
        example = "'{}_{:05}.jpg'" if modality == 'Flow' else "'img_{:05}.jpg'"
        problems.add(f'{key}.filename_tmpl', f'{template!r} does not give each frame of {modality} a name of its own. '
                     f'Use a template such as {example}.')
        return
    for entry in entries:
        place = os.path.join(folder, entry.path)
        if not os.path.isdir(place) or not entry.part:
            continue
        first = start + (entry.part[0] if form.offset else 0)
        last = first + entry.part[-1] - 1
        lost = [number for number in (first, last)
                if not os.path.isfile(os.path.join(place, str(frame_name(template, number, modality))))]
        if lost:
            _name_it(entry, place, lost, (first, last), template, start, modality, list_path, key, problems)
            return


def _name_it(entry: Entry, place: str, lost: List[int], ends: Tuple[int, int], template: str, start: int, modality: str,
             list_path: str, key: str, problems: Problems) -> None:
    first, last = ends
    own, numbers, names = numbered(place)
    shown = ', '.join(repr(name) for name in (names[:1] + names[-1:] if len(names) > 1 else names)) or 'no images'
    missing = frame_name(template, lost[0], modality)
    text = f'{list_path}, line {entry.line}: there is no {missing} in {place}, which has {len(names)} images ({shown}).'
    fitting = [number for number in numbers if modality == 'RGB' and own is not None
               and os.path.isfile(os.path.join(place, str(frame_name(template, number, modality))))]
    if not fitting:
        meant = f' {own!r} fits the names in it.' if own is not None and modality == 'RGB' else ''
        problems.add(f'{key}.filename_tmpl', f'{text} filename_tmpl={template!r} fits none of them.{meant}')
    elif fitting[0] < start and lost == [last] and len(fitting) >= last - first + 1:
        problems.add(f'{key}.start_index', f'{text} Its frames count from {fitting[0]}: set start_index={fitting[0]} '
                     f'(it is {start}).')
    elif lost[0] == first and fitting[0] > first:
        problems.add(f'{key}.start_index', f'{text} Its frames count from {fitting[0]}: set start_index={fitting[0]} '
                     f'(it is {start}).')
    else:
        problems.add(f'{key}.ann_file', f'{text} The line asks for frames {first} to {last}, and the folder has those '
                     f'up to {fitting[-1]}. Correct the count in the list, or extract the frames again.')
