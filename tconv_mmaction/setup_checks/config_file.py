"""Inside mmaction2's own scripts: a config or ``--cfg-options`` that cannot be read is one message, no traceback."""
import contextlib
import difflib
import functools
import sys
from typing import Any, Iterator, List

from mmengine.config import Config, DictAction

from ..utils.config_file import ConfigError, read_config
from .problems import Problem, SetupError, explained

OPTIONS = '--cfg-options'


def unknown_options(cfg: Any, options: dict) -> List[str]:
    """A sentence for every option whose key is not in the config, but one that is nearly the same is."""
    found = []
    for dotted in options or ():
        place = cfg
        for name in dotted.split('.'):
            if isinstance(place, (list, tuple)) and name.isdigit() and int(name) < len(place):
                place = place[int(name)]
                continue
            if not isinstance(place, (dict, Config)):
                break
            if name not in place:
                near = difflib.get_close_matches(name, [str(key) for key in place], n=1, cutoff=0.8)
                if near:
                    found.append(f'{OPTIONS} {dotted}: the config has no {name!r} there, and it is added. Did you mean '
                                 f'{near[0]!r}?')
                break
            place = place[name]
    return found


@contextlib.contextmanager
def explained_configs() -> Iterator[None]:
    """Inside, a config or an option that cannot be read raises SetupError; options that may be slips are said."""
    read, merge, split = vars(Config)['fromfile'], Config.merge_from_dict, DictAction.__call__

    @functools.wraps(read.__func__)
    def fromfile(filename: Any, *args: Any, **kwargs: Any) -> Config:
        try:
            return read_config(filename, lambda path, **options: read.__func__(path, *args, **options), **kwargs)
        except ConfigError as error:
            raise SetupError([Problem('config', str(error))]) from error

    @functools.wraps(merge)
    def merge_from_dict(self: Config, options: dict, *args: Any, **kwargs: Any) -> None:
        for text in unknown_options(self, options):
            print(f'Warning: {text}', file=sys.stderr)
        try:
            merge(self, options, *args, **kwargs)
        except Exception as error:
            text = explained(error).splitlines()[0].split(' in child config cannot')[0]
            raise SetupError([Problem(OPTIONS, f'{options} does not fit the config: {text}. Name values by dotted keys '
                                      'of the config, entries of a list by their number, and give a tuple as a whole: '
                                      'KEY="(1,2)".')]) from error

    @functools.wraps(split)
    def checked_split(self: DictAction, parser: Any, namespace: Any, values: Any, *args: Any) -> None:
        wrong = [value for value in values if '=' not in value]
        if wrong:
            parser.error(f'{OPTIONS}: {wrong[0]!r} has no "=". Options are KEY=VALUE, such as train_cfg.max_epochs=8, '
                         'without blanks around the sign.')
        split(self, parser, namespace, values, *args)

    Config.fromfile, Config.merge_from_dict = staticmethod(fromfile), merge_from_dict
    DictAction.__call__ = checked_split
    try:
        yield
    finally:
        Config.fromfile, Config.merge_from_dict, DictAction.__call__ = read, merge, split
