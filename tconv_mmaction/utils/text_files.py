"""Text files that users give: lists of videos and class names, json. An error about one has its name."""
import json
import os
from pathlib import Path
from typing import Any, List, Optional, Union

LONGEST_LABEL = 9  # digits; Python refuses to convert thousands of them with an error that names nothing


def read_text(path: Union[str, 'os.PathLike[str]']) -> str:
    """The content of a UTF-8 text file, line ends as newlines.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding='utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is no UTF-8 text ({error.reason} at byte {error.start}). Is it another kind of file? '
                         'If it is text, save it as UTF-8.') from error


def read_lines(path: Union[str, 'os.PathLike[str]']) -> List[str]:
    """The lines of a UTF-8 text file as iterating over it gives them.

    ``str.splitlines`` would also break at characters that may be in a name, such as U+0085 and U+2028.
    """
    lines = read_text(path).split('\n')
    return lines if lines[-1] else lines[:-1]


def read_json(path: Union[str, 'os.PathLike[str]']) -> Any:
    """The content of a json file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is no json.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f'{path} is no json that can be read: {error}.') from error


def parse_label(text: str, num_classes: int) -> Optional[int]:
    """A label from 0 to ``num_classes - 1``, or None if the text is none."""
    text = text.strip()
    if not text.isdecimal() or len(text) > LONGEST_LABEL:  # isdigit() takes superscripts, which int() does not
        return None
    return int(text) if int(text) < num_classes else None
