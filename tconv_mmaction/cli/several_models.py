"""Several models on one command line: CONFIG CKPT --compare OTHER_CONFIG OTHER_CKPT ..., and what they are called."""
import argparse
from typing import List, Optional, Sequence, Tuple

from .clip_tool import titles_of

CONFIG_ENDINGS = ('.py', '.json', '.yml', '.yaml')
Pair = Tuple[str, str]  # config, checkpoint


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """--compare and --titles, beside CONFIG and CHECKPOINT."""
    parser.add_argument('--compare', nargs='+', action='extend', default=[], metavar='OTHER',
                        help='further models: OTHER_CONFIG OTHER_CKPT ..., or checkpoints alone for the config before')
    parser.add_argument('--titles', nargs='+', help='names of the models in tables and figures, in the order given '
                        '(default: from the file names)')


def pair_up(config: str, checkpoint: str, tokens: Sequence[str]) -> List[Pair]:
    """(config, checkpoint) of the first model and of ``[CONFIG] CKPT [CKPT ...] [CONFIG CKPT ...] ...``.

    A checkpoint without a config of its own belongs to the config before it, at first ``config``.

    >>> pair_up('a.py', 'a.pth', ['b.pth', 'c.py', 'c.pth'])
    [('a.py', 'a.pth'), ('a.py', 'b.pth'), ('c.py', 'c.pth')]
    """
    pairs, unused = [(config, checkpoint)], None
    for token in tokens:
        if token.endswith(CONFIG_ENDINGS):
            if unused:
                raise ValueError(f'--compare: no checkpoint follows the config {unused}.')
            config = unused = token
        else:
            pairs.append((config, token))
            unused = None
    if unused:
        raise ValueError(f'--compare: no checkpoint follows the config {unused}.')
    return pairs


def chosen_titles(pairs: Sequence[Pair], titles: Optional[Sequence[str]]) -> List[str]:
    """The names given, or those of the files.

    Raises:
        ValueError: for another number of names than models, or two that are the same.
    """
    titles = list(titles or titles_of(pairs))
    if len(titles) != len(pairs) or len(set(titles)) != len(titles):
        raise ValueError(f'--titles: {len(pairs)} model(s) need as many different names, got {titles}.')
    return titles
