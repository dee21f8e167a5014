"""A user's mistake ends a script with one line instead of a traceback."""
import sys
from pathlib import Path
from typing import Callable, Optional

MISTAKES = (ValueError, TypeError, FileNotFoundError, ImportError)


def exit_code(main: Callable[[], Optional[int]]) -> int:
    """Run a script's main part: its own exit code (0 for None), or 2 after a line that names script and mistake.

    >>> exit_code(lambda: None)
    0
    """
    try:
        return main() or 0
    except MISTAKES as error:
        print(f'{Path(sys.argv[0]).stem}: {error}', file=sys.stderr)
        return 2
