"""Which class is explained: from what a user writes (a name, an index, 'label', 'prediction') to a class of a clip.

Every tool asks here, so that a class is named in the same way everywhere. Names come from a file with one per line, or
from the data set that the clips are of.
"""
import difflib
import re
from typing import List, Optional, Sequence, Tuple, Union

import torch

from ...utils.text_files import read_lines

WORDS = ('prediction', 'label')


def class_names(path: Optional[str], classes: int, known: Optional[Sequence[str]] = None) -> List[str]:
    """Names of the classes: one per line of a file; without a file those known; else 'class 0', 'class 1', ...

    Args:
        path: of the file, or None.
        classes: how many the model has.
        known: the data set's ``metainfo['classes']``; of another number of classes they are not taken.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another number of lines or is no UTF-8 text.
    """
    if path is None:
        fits = known is not None and len(known) == classes
        return [str(name) for name in known] if fits else [f'class {i}' for i in range(classes)]
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if len(names) != classes:
        raise ValueError(f'{path} has {len(names)} names, the model {classes} classes.')
    return names


def _plain(name: str) -> str:
    """A name without what two spellings of it differ in: case, and blanks, hyphens or underscores."""
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def class_index(text: str, names: Sequence[str]) -> int:
    """The class that a name or an index means; ``index:3`` is an index whatever the classes are called.

    A name counts as it is, or, if that is one class only, in another spelling of case, blanks, '-' and '_'.

    >>> class_index('Brush Hair', ['brush_hair', 'wave']), class_index('1', ['brush_hair', 'wave'])
    (0, 1)

    Raises:
        ValueError: if no class or several have this name, if it is the name of one class and the index of another, or
            if there is no class of this index.
    """
    found = [i for i, name in enumerate(names) if name == text]
    found = found or [i for i, name in enumerate(names) if _plain(name) == _plain(text)]
    if len(found) > 1:
        raise ValueError(f'the classes {found} are all called {text!r}; give an index: index:{found[0]}.')
    number = re.fullmatch(r'(index:)?\s*(-?\d{1,9})', text)
    index = int(number[2]) if number else None
    if found and not (number and number[1]):
        if index is not None and index != found[0] and 0 <= index < len(names):
            raise ValueError(f'{text!r} is the name of class {found[0]} and the index of {names[index]!r}; write '
                             f'index:{found[0]} for the first, index:{index} for the second.')
        return found[0]
    if index is None:
        close = difflib.get_close_matches(_plain(text), [_plain(name) for name in names], n=5, cutoff=0.5)
        near = [name for name in names if _plain(name) in close] or list(names[:5])
        raise ValueError(f"{text!r} is no class: neither a name, nor an index, nor 'prediction' or 'label'. The model "
                         f'has {len(names)} classes; {"close to it" if close else "the first ones"}: '
                         f'{", ".join(map(repr, near))}. Their names come from --classes or from the data set.')
    if not 0 <= index < len(names):
        raise ValueError(f'target {index} is outside the {len(names)} classes (0 to {len(names) - 1}).')
    return index


def read_target(text: Union[str, int], names: Sequence[str]) -> Union[str, int]:
    """What --target says: 'prediction', 'label', or the index of a class given by name or index.

    Raises:
        ValueError: as :func:`class_index`.
    """
    return text if text in WORDS else class_index(str(text), names)


def labels_of(value, classes: Optional[int] = None) -> Tuple[int, ...]:
    """The classes that a label holds: a number, class indices, or a vector of 0 and 1 with an entry per class.

    >>> labels_of(2), labels_of([0., 1., 1.]), labels_of([2, 5]), labels_of(-1)
    ((2,), (1, 2), (2, 5), ())

    Args:
        value: None for a clip without label; a negative one is none either.
        classes: how many there are; integers that are all 0 or 1, as many as this, are a vector.
    """
    if value is None:
        return ()
    label = torch.as_tensor(value)
    if label.dim() == 0:
        return (int(label), ) if int(label) >= 0 else ()
    label = label.flatten()
    binary = bool(((label == 0) | (label == 1)).all())
    vector = label.is_floating_point() or label.dtype == torch.bool or (
        binary and label.numel() == classes and label.numel() > 2)
    if not vector:
        return tuple(sorted({int(i) for i in label if int(i) >= 0}))
    return tuple(torch.nonzero(label > 0).flatten().tolist())


def target_of(target: Union[str, int], labels: Sequence[int], names: Sequence[str]) -> Union[str, int]:
    """The class that is explained of one clip: an index, or 'prediction'.

    Args:
        target: of :func:`read_target`.
        labels: of the clip.

    Raises:
        ValueError: for 'label' and a clip with none or several.
    """
    if target != 'label':
        return target
    if not labels:
        raise ValueError("this clip has no label: --target label needs --dataset or --labels; or give 'prediction' or "
                         'a class.')
    if len(labels) > 1:
        listed = ', '.join(names[i] if i < len(names) else f'class {i}' for i in labels)
        raise ValueError(f'this clip has several labels ({listed}); give a class: --target {names[labels[0]]!r}.')
    return labels[0]
