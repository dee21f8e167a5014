"""Lists of videos of a public data set: whole or not written, in mmaction2's form."""
from pathlib import Path
from typing import Dict, Iterable, Sequence

from ..utils.atomic import atomic_write_text


def check_complete(lists: Dict[str, Sequence[str]], missing: Sequence[str], allow_missing: bool, lacking: str,
                   there: str, remedy: str) -> None:
    """Refuse lists that lack videos.

    Args:
        lists: split -> its lines.
        missing: the videos without a line, each with its split.
        allow_missing: some may be left out.
        lacking: what is wrong with missing videos, as in '3 videos ...'.
        there: what no video of an empty split is, as in 'no video of train ...'.
        remedy: what to do, besides ``--allow-missing``.

    Raises:
        ValueError: for missing videos that are not allowed, and for a split without any.
    """
    if missing and not allow_missing:
        raise ValueError(f'{len(missing)} videos {lacking}: {", ".join(missing[:8])}'
                         f'{", ..." if len(missing) > 8 else ""}. Nothing was written. {remedy}, or leave '
                         'them out with --allow-missing.')
    empty = [split for split, lines in lists.items() if not lines]
    if empty:
        raise ValueError(f'no video of {", ".join(empty)} {there}. Nothing was written.')


def write_lists(out: Path, classes: Iterable[str], lists: Dict[str, Sequence[str]], name: str,
                missing: Sequence[str], reason: str) -> None:
    """Write ``classes.txt`` and a list per split, ``name`` with the split in it, and say what they hold and lack."""
    classes = list(classes)
    atomic_write_text(out / 'classes.txt', ''.join(f'{title}\n' for title in classes))
    for split, lines in lists.items():
        path = out / name.format(split=split)
        atomic_write_text(path, ''.join(lines))
        print(f'{path}: {len(lines)} videos, {len(classes)} classes')
    for video in missing:
        print(f'left out, {reason}: {video}')
