"""What is run and in which order: the parts of the study, their networks, and how a network's settings are chosen.

A run is a dict (its key in runs.jsonl): videos, net, channels, start, optimizer, lr, epochs, per_class, repeat. In a
repeat all networks see the same videos in the same order of batches.
"""
import dataclasses
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from nets import parameters_of  # beside this file

ROWS = (1, 2, 3, 4, 5, 10, 50, 100)  # videos per class
FEW = ROWS[:6]
TUNING = range(1000, 1003)  # repeats whose validation videos choose settings; none of them is reported
# Mean validation accuracy in the notes of the paper's authors, the best of their channel settings per row
AUTHORS = {'3D': (39.7, 52.7, 64.3, 69.4, 74.3, 83.9, 95.6, 97.5),
           '3T': (46.8, 59.6, 71.2, 73.2, 77.1, 83.2, 92.1, 96.0)}


@dataclasses.dataclass(frozen=True)
class Net:
    """One line of a table. ``start`` and ``lr`` None: chosen for the part on the tuning repeats."""
    kind: str
    start: Optional[str] = None
    lr: Optional[float] = None
    channels: Tuple[int, int] = (6, 16)
    motion: bool = False  # add '+motion' to whatever start is chosen
    title: str = ''
    mult: int = 1  # learning rate of 3T's transforms over that of everything else

    @property
    def name(self) -> str:
        """In tables: the title, or what is given; without what is chosen."""
        if self.title:
            return self.title
        channels = '' if self.channels == (6, 16) else '{} and {} channels'.format(*self.channels)
        parts = [self.kind + ', moving start' * self.motion, channels,
                 self.start and f'start {self.start}', self.lr and f'lr {self.lr:.2g}']
        return ', '.join(part for part in parts if part)


@dataclasses.dataclass(frozen=True)
class Part:
    """Networks that are compared on the same videos; ``pairs`` are (first, second): the table has second - first."""
    name: str
    title: str
    nets: Tuple[Net, ...]
    pairs: Tuple[Tuple[int, int], ...]
    rows: Tuple[int, ...] = FEW
    videos: str = 'digits'
    optimizer: str = 'adam'
    epochs: int = 20
    tune_starts: Tuple[str, ...] = ()
    tune_lrs: Tuple[float, ...] = ()
    tune_rows: Tuple[int, ...] = (2, 5)
    tune_repeats: range = TUNING[:2]
    like: str = ''  # the part whose choice is taken


def closest_channels(kind: str, count: int, most: int = 32) -> Tuple[int, int]:
    """Channels, at most ``most`` in a layer, with which a net of that kind has as nearly as possible ``count``
    parameters; of equally near ones the narrower first layer."""
    return min(((first, second) for first in range(1, most + 1) for second in range(1, most + 1)),
               key=lambda channels: (abs(parameters_of(kind, channels) - count), channels))


def transforms(start: str, mult: int) -> Net:
    """3T at the learning rate that (c) chose for both starts."""
    begin = 'moving start' if start.endswith('motion') else 'identity'
    return Net('3T', start, 2e-3, title=f'{begin}, {mult}x', mult=mult)


OLD_3D, OLD_3T = Net('3D', 'conv3d', 1e-3, title='3D'), Net('3T', 'paper', 1e-3, title='3T')
LOW, HIGH = 10**-3.5, 10**-2.5
EQUAL_3D = dataclasses.replace(OLD_3D, channels=closest_channels('3D', parameters_of('3T', (6, 16))),
                               title='narrow 3D')
EQUAL_3T = dataclasses.replace(OLD_3T, channels=closest_channels('3T', parameters_of('3D', (6, 16))), title='wide 3T')
FOUR = (Net('3D'), Net('3T'), Net('3T', motion=True), Net('R(2+1)D'))
FOUR_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2))
FIRST_SLICES = tuple(Net('3T', start, title=title) for start, title in (
    ('paper', 'standard normal'), ('conv3d', 'as nn.Conv3d'), ('he', 'He')))

PARTS = {part.name: part for part in (
    Part('authors', "(a) The authors' set-up: SGD 5e-8, 3D from N(0, 1) weights and biases",
         (Net('3D', 'normal', 5e-8, title='3D'), Net('3T', 'paper', 5e-8, title='3T'),
          Net('3D', 'conv3d', 5e-5, title="3D from nn.Conv3d's start")), ((0, 1), (2, 1)), videos='authors',
         optimizer='sgd', epochs=100),
    Part('normal', '(b) Adam, both from N(0, 1)', (Net('3D', 'normal', title='3D'), Net('3T', 'paper', title='3T')),
         ((0, 1), ), tune_starts=('', ), tune_lrs=(3e-4, 1e-3, 3e-3), tune_repeats=TUNING),
    Part('tuned', '(c) Adam, each from a sensible start, tuned alike', FOUR, FOUR_PAIRS,
         tune_starts=('conv3d', 'he'), tune_lrs=(1e-3, 2e-3, 4e-3)),
    Part('motion', '(d) The class is the motion alone, settings of (c)', FOUR, FOUR_PAIRS, rows=(1, 2, 5, 10, 20),
         videos='motion', like='tuned'),
    Part('transforms', '(i) As (d), the transforms of 3T at 1, 3 and 10 times the learning rate of the rest',
         tuple(transforms(start, mult) for start in ('he', 'he+motion') for mult in (1, 3, 10)),
         ((0, 1), (0, 2), (3, 4), (3, 5)), rows=(5, ), videos='motion'),
    Part('starts', '(j) The first slice of 3T, three starts tuned alike', FIRST_SLICES, ((0, 2), (1, 2)),
         rows=(1, 2, 5), tune_lrs=(1e-3, 2e-3, 4e-3)),
    Part('starts-motion', '(j) As above, the class is the motion alone', FIRST_SLICES, ((0, 2), (1, 2)), rows=(1, 2, 5),
         videos='motion', like='starts'),
    Part('unequal', '(e) Adam at 0.001, 3D from the start of nn.Conv3d against 3T from N(0, 1)', (OLD_3D, OLD_3T),
         ((0, 1), ), rows=ROWS),
    Part('equal', '(f) As (e), as many parameters: one net narrowed or widened to the count of the other',
         (EQUAL_3D, OLD_3T, OLD_3D, EQUAL_3T), ((0, 1), (2, 3))),
    Part('rates', '(g) As (e), ten times the learning rate for one net, and swapped',
         (Net('3D', 'conv3d', LOW, title='3D at 0.00032'), Net('3T', 'paper', HIGH, title='3T at 0.0032'),
          Net('3D', 'conv3d', HIGH, title='3D at 0.0032'), Net('3T', 'paper', LOW, title='3T at 0.00032')),
         ((0, 1), (2, 3))),
    Part('small', '(h) As (e), 3T from weights as small as those of 3D, too',
         (OLD_3D, Net('3T', 'conv3d', 1e-3, title='3T')), ((0, 1), )),
)}


class Stage(NamedTuple):
    """Some rows and repeats of a part; ``tune``: of its tuning runs instead."""
    part: str
    rows: Tuple[int, ...] = ()
    repeats: range = range(0)
    tune: bool = False


# In the order in which they run: what the page needs most comes first.
STAGES = (
    Stage('tuned', tune=True),
    Stage('tuned', (1, 2), range(10)),
    Stage('motion', (5, ), range(5)),
    Stage('transforms', (5, ), range(5)),
    Stage('motion', (1, 2), range(10)),
    Stage('motion', (5, ), range(10)),
    Stage('starts', tune=True),
    Stage('starts', (1, 2, 5), range(10)),
    Stage('starts-motion', (1, 2, 5), range(10)),
    Stage('authors', (1, 2), range(4)),
    Stage('tuned', (5, ), range(10)),
    Stage('authors', (1, 2), range(10)),
    Stage('normal', tune=True),
    Stage('normal', (1, 2), range(10)),
    Stage('transforms', (5, ), range(10)),
    Stage('tuned', (3, 10), range(5)),
    Stage('motion', (10, ), range(10)),
    Stage('normal', (1, 2, 3, 5), range(10)),
    Stage('authors', (3, 4, 5), range(4)),
    Stage('tuned', FEW, range(10)),
    Stage('authors', FEW, range(10)),
    Stage('normal', FEW, range(10)),
    Stage('tuned', FEW, range(30)),
    Stage('motion', (1, 2, 5, 10, 20), range(30)),
    Stage('normal', FEW, range(30)),
    Stage('authors', FEW, range(30)),
)


def key_of(part: Part, net: Net, start: str, lr: float, per_class: int, repeat: int) -> Dict[str, object]:
    """What identifies a run in the log."""
    optimizer = part.optimizer if net.mult == 1 else f'{part.optimizer}, transforms x{net.mult}'
    return dict(videos=part.videos, net=net.kind, channels=list(net.channels), start=start, optimizer=optimizer,
                lr=lr, epochs=part.epochs, per_class=per_class, repeat=repeat)


def candidates(part: Part, net: Net) -> List[Tuple[str, float]]:
    """The (start, learning rate) that are tried for a net: the same number for all nets of a part."""
    starts = (net.start, ) if net.start else [start + '+motion' * net.motion for start in part.tune_starts]
    return [(start, lr) for start in starts for lr in ((net.lr, ) if net.lr else part.tune_lrs)]


def tuning_keys(part: Part) -> List[Dict[str, object]]:
    return [key_of(part, net, start, lr, row, repeat) for repeat in part.tune_repeats for row in part.tune_rows
            for net in part.nets for start, lr in candidates(part, net)]


def tuning_results(runs: Sequence[dict], part: Part, net: Net) -> Dict[Tuple[str, float], Optional[float]]:
    """{(start, lr): mean validation accuracy over the rows and repeats of the tuning, None if not all are run}."""
    index = {tuple(map(str, (run[name] for name in ('videos', 'net', 'channels', 'start', 'optimizer', 'lr', 'epochs',
                                                   'per_class', 'repeat')))): run['val']
             for run in runs if run['repeat'] in TUNING}
    results = {}
    for start, lr in candidates(part, net):
        found = [index.get(tuple(map(str, key_of(part, net, start, lr, row, repeat).values())))
                 for row in part.tune_rows for repeat in part.tune_repeats]
        results[start, lr] = None if None in found else sum(found) / len(found)
    return results


def chosen(runs: Sequence[dict], part: Part, net: Net) -> Optional[Tuple[str, float]]:
    """The settings with the best validation accuracy; None while the tuning of this net is not complete."""
    part = PARTS[part.like] if part.like else part
    if len(candidates(part, net)) == 1:
        return candidates(part, net)[0]
    results = tuning_results(runs, part, net)
    return None if None in results.values() else max(results, key=results.get)


def keys_of(runs: Sequence[dict], part: Part, rows: Sequence[int], repeats: Sequence[int]) -> List[Dict[str, object]]:
    """The runs of a part, net after net within a repeat.

    Raises:
        ValueError: if the settings of a net are not chosen yet.
    """
    settings = [chosen(runs, part, net) for net in part.nets]
    if None in settings:
        raise ValueError(f'part {part.like or part.name!r} is not tuned yet; run that one first.')
    return [key_of(part, net, *setting, row, repeat) for repeat in repeats for row in rows
            for net, setting in zip(part.nets, settings)]
