"""Annotation lists, line by line: every mistake that would otherwise show up in a worker, or never.

The forms are mmaction2's: ``PATH LABEL`` (VideoDataset), ``PATH FRAMES LABEL`` or with an offset ``PATH START FRAMES
LABEL`` (RawframeDataset), several labels with ``multi_class``. Files are looked for, not opened.
"""
import inspect
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from mmaction.datasets import RawframeDataset, VideoDataset

from ..datasets import PackedVideoDataset, TolerantVideoDataset
from ..utils.packed_frames import PackSettings, read_index
from .problems import SHOWN, Problems

LOOKED_FOR = 3  # files at the start of a list, and as many at its end


class Entry(NamedTuple):
    """A line that could be read."""
    line: int
    path: str
    labels: Tuple[int, ...]
    part: Tuple[int, ...]  # first frame and frame count, where the list has them


class ListForm(NamedTuple):
    """How a data set reads its lines."""
    frames: bool
    offset: bool
    multi_class: bool
    delimiter: Optional[str]
    tolerant: bool = False  # some of the files may be unreadable
    packed: bool = False  # the folder is a pack, not one of files
    counted: bool = False  # videos with their number of frames

    def describe(self) -> str:
        parts = ['PATH', *(['START'] if self.offset else []), *(['FRAMES'] if self.frames or self.counted else []),
                 'LABEL...' if self.multi_class else 'LABEL']
        return f'{(self.delimiter or " ").join(parts)!r}'


def form_of(cls: type, cfg: dict) -> Optional[ListForm]:
    """The form of a data set's list; None for data sets that read something else."""
    multi_class, delimiter = bool(cfg.get('multi_class', False)), cfg.get('delimiter', ' ')
    tolerant = not cfg.get('test_mode', False) or cfg.get('unreadable_in_test') == 'wrong'
    if _reads_as(cls, PackedVideoDataset):
        return ListForm(False, False, multi_class, delimiter, cfg.get('missing') == 'leave_out', packed=True)
    if _reads_as(cls, TolerantVideoDataset):
        return ListForm(False, False, multi_class, delimiter, tolerant, counted=bool(cfg.get('counted', False)))
    for base, frames in ((VideoDataset, False), (RawframeDataset, True)):
        if _reads_as(cls, base):
            return ListForm(frames, frames and bool(cfg.get('with_offset', False)), multi_class,
                            None if frames else delimiter,
                            tolerant and 'max_bad_share' in inspect.signature(cls).parameters)
    return None


def _reads_as(cls: type, base: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, base) and cls.load_data_list is base.load_data_list


def joined(root: Optional[str], path: str) -> str:
    """``path`` below ``root`` as MMEngine joins them: absolute ones and URLs stay."""
    return path if not root or os.path.isabs(path) or '://' in path else os.path.join(root, path)


def _number(text: str) -> Optional[int]:
    try:
        return int(text)
    except ValueError:
        return None


class _Findings:
    """Mistakes of one kind, of which the first few are shown."""

    def __init__(self) -> None:
        self.lines: Dict[str, List[str]] = defaultdict(list)

    def add(self, kind: str, line: int, what: str) -> None:
        self.lines[kind].append(f'line {line}: {what}')

    def report(self, key: str, path: str, problems: Problems) -> None:
        for advice, lines in self.lines.items():
            more = f'; and {len(lines) - SHOWN} more lines' if len(lines) > SHOWN else ''
            problems.add(key, f'{path}, {"; ".join(lines[:SHOWN])}{more}. {advice}')


def _parse(number: int, text: str, form: ListForm, labelled: bool, num_classes: Optional[int],
           findings: _Findings) -> Optional[Entry]:
    fields = text.strip().split(form.delimiter)
    numbers = 2 if form.offset else 1 if form.frames or form.counted else 0
    rest = [_number(field) for field in fields[1:]]
    shown = f'{text[:80]!r}'
    if not fields[0] or '\0' in text:
        findings.add('Every line needs the path of a file; take these out.', number, shown)
        return None
    if form.counted and (len(fields) < 2 + labelled or len(fields) > 3 and not form.multi_class):
        findings.add('With counted=True lines are "PATH FRAMES LABEL", as tools/data/check_videos.py --counted-list '
                     'writes them. Use such a list, or leave counted out.', number, f'{len(fields)} fields, {shown}')
        return None
    if not form.frames and not form.counted and not form.multi_class and len(fields) > 2:
        if len(fields) in (3, 4) and None not in rest:
            findings.add(f'The lines look like a list of frame folders, and VideoDataset wants {form.describe()}. Use '
                         "type='RawframeDataset' with data_prefix=dict(img=...), or make a list of videos.", number,
                         f'{len(fields)} fields, {shown}')
        else:
            findings.add(f'VideoDataset wants {form.describe()}. File names that hold the delimiter {form.delimiter!r} '
                         "need another one: write the list with it and set delimiter=',' in the data set.", number,
                         f'{len(fields)} fields, {shown}')
        return None
    if not form.frames and len(fields) == 1 and labelled:
        findings.add(f'The delimiter of the data set is {form.delimiter!r} and lines must be {form.describe()}. Set '
                     'dataset.delimiter to what the list uses, or add the labels.', number, f'no label in {shown}')
        return None
    if form.frames and len(fields) < 1 + numbers + (1 if labelled else 0):
        advice = f'RawframeDataset wants {form.describe()}.'
        if len(fields) == 2:
            advice += " For a list of videos use type='VideoDataset' with data_prefix=dict(video=...)."
        findings.add(advice, number, f'{len(fields)} fields, {shown}')
        return None
    if form.frames and not form.multi_class and len(fields) > 2 + numbers:
        hint = ' A list with start frames needs with_offset=True; several labels need multi_class=True.'
        findings.add(f'RawframeDataset wants {form.describe()}.{hint}', number, f'{len(fields)} fields, {shown}')
        return None
    if None in rest:
        bad = fields[1:][rest.index(None)]
        findings.add(f'Counts and labels must be whole numbers: {form.describe()}. Class names have to become numbers '
                     'from 0.', number, f'{bad!r} in {shown}')
        return None
    part, labels = tuple(rest[:numbers]), tuple(rest[numbers:])
    if (form.frames or form.counted) and part[-1] < 1:
        findings.add('A clip needs at least one frame; take these out.', number, f'{part[-1]} frames in {shown}')
    if form.offset and part[0] < 0:
        findings.add('The first frame is counted from 0.', number, f'start {part[0]} in {shown}')
    for label in labels if labelled else ():
        if label < 0:
            findings.add('Labels count from 0. Write the class of each video, or take unlabelled ones out.', number,
                         f'label {label}')
        elif num_classes is not None and label >= num_classes:
            findings.add(f'model.cls_head.num_classes={num_classes} allows labels from 0 to {num_classes - 1}. Set '
                         'num_classes to the number of your classes, or correct the list (labels count from 0, not '
                         'from 1).', number, f'label {label}')
    return Entry(number, fields[0], labels, part)


def read_list(path: str, form: ListForm, key: str, problems: Problems, num_classes: Optional[int] = None,
              labelled: bool = True, duplicates: bool = False) -> List[Entry]:
    """The entries of an annotation list; what is wrong with its lines goes to ``problems``.

    Args:
        path: of the list.
        form: from :func:`form_of`.
        key: of the config, for the messages.
        num_classes: labels must be below it.
        labelled: whether lines need labels (training and evaluation do).
        duplicates: allow the same video twice.
    """
    try:
        with open(path, 'rb') as file:
            lines = file.read().split(b'\n')
    except OSError as error:
        what = 'is a folder, not a list' if os.path.isdir(path) else 'is not there' if not os.path.exists(path) else \
            f'cannot be read ({error.strerror})'
        problems.add(key, f'{path} {what}. Make the list (tools/data/, docs/data.md), or set the path: --cfg-options '
                     f'{key}=PATH. Relative paths count from the working directory {os.getcwd()}.')
        return []
    if lines and not lines[-1]:
        lines.pop()
    findings, entries = _Findings(), []
    for number, raw in enumerate(lines, 1):
        try:
            text = raw.decode('utf-8')
        except UnicodeDecodeError as error:
            findings.add('Lists are read as UTF-8; save it so (iconv -f latin1 -t utf8).', number,
                         f'byte {raw[error.start]:#04x} at position {error.start} is no UTF-8')
            continue
        if number == 1 and text.startswith('\ufeff'):
            findings.add('The list starts with a byte order mark, which would become part of the first path. Save it '
                         'as UTF-8 without BOM.', number, repr(text[:40]))
            text = text[1:]
        if not text.strip():
            findings.add('Take the empty lines out: mmaction2 reads them as a video without a name.', number,
                         'empty')
            continue
        entry = _parse(number, text, form, labelled, num_classes, findings)
        if entry is not None:
            entries.append(entry)
    if not lines:
        problems.add(key, f'{path} is empty. It needs one line {form.describe()} per video; tools/data/ makes lists.')
    first: Dict[Tuple[Any, ...], Entry] = {}
    for entry in entries:
        other = first.setdefault((entry.path, entry.part), entry)
        if other is not entry and other.labels != entry.labels:
            findings.add('One of the two labels is wrong.', entry.line, f'{entry.path!r} has label '
                         f'{entry.labels[0] if entry.labels else None}, on line {other.line} '
                         f'{other.labels[0] if other.labels else None}')
        elif other is not entry and not duplicates:
            findings.add('Take duplicates out; if they are meant (to show a video more often), allow them: '
                         '--cfg-options default_hooks.check_setup.duplicates=True.', entry.line,
                         f'{entry.path!r} is already on line {other.line}')
    findings.report(key, path, problems)
    return entries


def ends_of(entries: List[Entry]) -> List[Entry]:
    """The first and the last few entries."""
    return entries[:LOOKED_FOR] + entries[max(LOOKED_FOR, len(entries) - LOOKED_FOR):]


def check_files(entries: List[Entry], folder: str, form: ListForm, list_path: str, key: str,
                problems: Problems) -> None:
    """Look for the first and the last few files of a list; a tolerant data set needs any of them."""
    if not entries:
        return
    if folder and not os.path.isdir(folder):
        problems.add(key, f'there is no folder {folder}. Put the {"frames" if form.frames else "videos"} there, or set '
                     f'the path: --cfg-options {key}=FOLDER.')
        return
    if form.packed:
        _check_pack(entries, folder, form, list_path, key, problems)
        return
    ends = ends_of(entries)
    missing = [(entry, path) for entry in ends for path in [os.path.join(folder, entry.path)]
               if not (os.path.isdir(path) if form.frames else os.path.isfile(path))]
    if form.tolerant and len(missing) < len(ends):
        return
    if missing:
        what = 'folder of frames' if form.frames else 'video'
        entry, path = missing[0]
        problems.add(key, f'{list_path}, line {entry.line}: there is no {what} {path} ({len(missing)} of the '
                     f'{len(ends)} looked for are missing). Paths of the list count from '
                     f'{folder or "the working directory"!r}; set the prefix that is missing, or correct the list.')
    elif not form.frames:
        empty = [(entry, path) for entry in ends for path in [os.path.join(folder, entry.path)]
                 if os.path.getsize(path) == 0]
        if empty:
            entry, path = empty[0]
            problems.add(key, f'{list_path}, line {entry.line}: {path} has zero bytes. Get it again, or take it out.')


def _check_pack(entries: List[Entry], folder: str, form: ListForm, list_path: str, key: str,
                problems: Problems) -> None:
    """Look for all videos of a list in a pack."""
    try:
        PackSettings.load(Path(folder))
        index = read_index(folder)
    except (ValueError, OSError) as error:
        problems.add(key, str(error))
        return
    missing = [entry for entry in entries if entry.path not in index]
    if missing and not (form.tolerant and len(missing) < len(entries)):
        entry = missing[0]
        problems.add(key, f'{list_path}, line {entry.line}: {entry.path} is not in the pack {folder} ({len(missing)} '
                     f'of {len(entries)} are missing). Run tools/data/pack_clips.py on this list, which adds them; or '
                     "go on without them: missing='leave_out' of the data set.")
