"""Names of files that tell them apart: as short as they can be."""
import os
from collections import Counter
from pathlib import PurePath
from typing import Dict, List, Sequence, Union


def distinct_names(paths: Sequence[Union[str, 'os.PathLike[str]']], suffix: bool = True) -> List[str]:
    """The file's name, with as many of its folders in front as tell it from the others; a repeated path is numbered.

    Args:
        paths: of files, in any form.
        suffix: keep the ending; without, it stays where only the ending tells two files apart.

    >>> distinct_names(['a/walk.mp4', 'b/walk.mp4', 'b/run.mp4', 'b/run.mp4'])
    ['a/walk.mp4', 'b/walk.mp4', 'run.mp4', 'run.mp4 (2)']
    >>> distinct_names(['a/walk.mp4', 'b/walk.avi', 'b/run.mp4'], suffix=False)
    ['walk.mp4', 'walk.avi', 'run']
    """
    whole = [PurePath(os.path.abspath(path)) for path in paths]
    short = {path: path.name if suffix else path.stem for path in whole}
    if not suffix:
        _apart(short, lambda path, _depth: path.name, 1)
    _apart(short, lambda path, depth: PurePath(*path.parts[-depth:]).as_posix(), max((len(p.parts) for p in whole),
                                                                                    default=0))
    seen: Dict[PurePath, int] = {}
    names = []
    for path in whole:
        seen[path] = seen.get(path, 0) + 1
        names.append(short[path] + (f' ({seen[path]})' if seen[path] > 1 else ''))
    return names


def _apart(short: Dict[PurePath, str], longer, most: int) -> None:
    """Lengthen names that several paths have, at most so many times."""
    for depth in range(1, most + 1):
        counts = Counter(short.values())
        equal = [path for path, name in short.items() if counts[name] > 1]
        if not equal:
            return
        short.update({path: longer(path, depth) for path in equal})
