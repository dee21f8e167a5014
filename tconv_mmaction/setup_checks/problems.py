"""What a check found: one line per mistake, each with the key or line, the value and the way out."""
import contextlib
import difflib
import inspect
import traceback
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from mmengine.registry import Registry

SHOWN = 5  # lines of an annotation list that are named for one kind of mistake; the others are counted

# what a registry's entries are called in a sentence, and the keys of dicts that it builds
KINDS = dict(transform='transform', model='model component', dataset='data set', hook='hook', metric='metric',
             optimizer='optimizer', parameter_scheduler='parameter scheduler', data_sampler='sampler', loop='loop')


class SetupError(ValueError):
    """The config and its files do not fit together; ``problems`` lists (key, text) of everything that was found."""

    def __init__(self, problems: List['Problem']) -> None:
        self.problems = problems
        count = f'{len(problems)} problem' + 's' * (len(problems) != 1)
        lines = [f'  {number}. {problem.key}: {problem.text}' for number, problem in enumerate(problems, 1)]
        super().__init__(f'{count} in the config or its files; nothing was started.\n' + '\n'.join(lines))


class Problem(NamedTuple):
    """A mistake: where (``train_dataloader.dataset.ann_file``), and what is wrong and what to do."""
    key: str
    text: str


class Problems(List[Problem]):
    """Collects mistakes, so that a user reads all of them at once.

    ``warnings`` holds what runs to its end and is probably not meant, ``notes`` what could not be checked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.notes: List[str] = []
        self.warnings: List[Problem] = []

    def warn(self, key: str, text: str) -> None:
        """Something that does not stop a run: it would go on with a number that nobody wanted."""
        problem = Problem(key, text)
        if problem not in self.warnings:
            self.warnings.append(problem)

    def add(self, key: str, text: str) -> None:
        problem = Problem(key, text)
        if problem not in self:
            self.append(problem)

    @contextlib.contextmanager
    def noted(self, key: str, before: str = '') -> Iterator[None]:
        """An exception inside becomes an entry."""
        try:
            yield
        except Exception as error:  # whatever a component raises: the user is told all of them in the same form
            self.add(key, before + explained(error))

    def raise_if_any(self) -> None:
        """Raise SetupError if there is an entry."""
        if self:
            raise SetupError(list(self))


def explained(error: BaseException) -> str:
    """What an exception says; for an ``assert`` without words, the line of code that it is."""
    if isinstance(error, AssertionError) and not str(error):
        return f'refused by `{traceback.extract_tb(error.__traceback__)[-1].line}`'
    if isinstance(error, KeyError) and error.args:
        return f'no key {error.args[0]!r}' if str(error.args[0]).isidentifier() else str(error.args[0])
    return f'{error}' if isinstance(error, (ValueError, TypeError, OSError)) else f'{type(error).__name__}: {error}'


def find_class(registry: Registry, cfg: Any, key: str, problems: Problems) -> Optional[type]:
    """The class that ``cfg['type']`` names, or None with an entry that names the nearest ones."""
    kind = KINDS.get(registry.name.replace(' ', '_'), registry.name)
    if not isinstance(cfg, dict):
        problems.add(key, f'must be a dict with a type, got {cfg!r}.')
        return None
    if 'type' not in cfg:
        problems.add(key, f'has no type; give the name of a {kind}: dict(type=...). Got the keys {sorted(cfg)}.')
        return None
    if not isinstance(cfg['type'], str):
        return cfg['type']
    found = registry.get(cfg['type'])
    if found is None:
        names: Dict[str, None] = {}
        table: Optional[Registry] = registry
        while table is not None:
            names.update(dict.fromkeys(table.module_dict))
            table = table.parent
        near = difflib.get_close_matches(cfg['type'].split('.')[-1], names, n=3)
        meant = f'Did you mean {" or ".join(map(repr, near))}?' if near else f'No {kind} has a name like it.'
        problems.add(f'{key}.type', f'no {kind} is registered as {cfg["type"]!r}. {meant} A component of your own must '
                     "be imported: custom_imports=dict(imports=['tconv_mmaction', 'your_module']).")
    return found


def check_names(cls: Any, cfg: dict, key: str, problems: Problems) -> bool:
    """Whether no argument is a slip of the pen that a class with **kwargs would take without a word."""
    known: Dict[str, Any] = {}
    for base in reversed(getattr(cls, '__mro__', ())):
        if '__init__' in vars(base) and base is not object:
            known.update(inspect.signature(base.__init__).parameters)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return True
    names = [name for name, parameter in known.items() if parameter.kind is not parameter.VAR_KEYWORD]
    for name in set(cfg) - {'type', *names}:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
        if near:
            problems.add(f'{key}.{name}', f'{cls.__name__} has no argument {name!r} and would ignore it. Did you mean '
                         f'{near[0]!r}?')
            return False
    return True


def build(registry: Registry, cfg: Any, key: str, problems: Problems, **defaults: Any) -> Any:
    """The component, or None with an entry."""
    found = find_class(registry, cfg, key, problems)
    if found is None:
        return None
    arguments = {name: value for name, value in cfg.items() if name != 'type'}
    try:
        return registry.build(dict(cfg, **defaults))
    except KeyError as error:  # a component inside this one
        nested = [value for value in _dicts(arguments) if isinstance(value.get('type'), str)
                  and value['type'] in str(error)]
        if nested:
            problems.add(key, f'no component is registered as {nested[0]["type"]!r}, which stands in {nested[0]!r}. '
                         'Check the spelling; a component of your own must be named in custom_imports.')
        else:
            problems.add(key, f'{getattr(found, "__name__", found)}: {explained(error)}. Given: {_short(arguments)}')
    except Exception as error:  # every component has errors of its own
        text = explained(error)
        given = '' if any(repr(value) in text for value in arguments.values()) else f' Given: {_short(arguments)}'
        problems.add(key, f'{getattr(found, "__name__", found)}: {text}{given}')
    return None


def _dicts(value: Any) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for child in children:
        yield from _dicts(child)


def _short(arguments: dict) -> str:
    text = ', '.join(f'{name}={value!r}' for name, value in arguments.items())
    return text if len(text) <= 200 else text[:197] + '...'
