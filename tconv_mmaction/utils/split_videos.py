"""Videos of classes dealt into lists, so that what belongs together stays together and every list has every class.

A *group* is a recording or a person: its videos must not be in two lists, or a network is tested on what it has seen.
"""
import random
import re
from collections import defaultdict
from typing import Dict, List, Optional, Sequence

Classes = Dict[str, List[str]]  # class -> videos


def group_of(video: str, pattern: 're.Pattern[str]') -> str:
    """What ``pattern`` finds in a path: its first group in brackets, or all of it.

    >>> group_of('wave/person07_day2.avi', re.compile(r'person(\\d+)'))
    '07'

    Raises:
        ValueError: if it finds nothing.
    """
    found = pattern.search(video)
    if found is None:
        raise ValueError(f'--groups {pattern.pattern!r} finds nothing in {video!r}, so its group is unknown. Every '
                         'video needs one: change the expression, or the name.')
    return found.group(1) if pattern.groups else found.group()


def split_class(name: str, videos: Sequence[str], fractions: Dict[str, float], rng: random.Random) -> Classes:
    """Shuffled parts of one class without groups: ``fractions`` (part -> share), and 'train' with the rest.

    Raises:
        ValueError: if there are too few videos for one in each part.
    """
    counts = {part: max(round(share * len(videos)), 1) if share else 0 for part, share in fractions.items()}
    train = len(videos) - sum(counts.values())
    if train < 1:
        raise ValueError(f'class {name!r} has {len(videos)} video(s), too few for one in train and each of '
                         f'{[p for p, c in counts.items() if c]}. Add videos, or set --val or --test to 0.')
    videos = rng.sample(list(videos), len(videos))
    parts, start = {'train': videos[:train]}, train
    for part, count in counts.items():
        parts[part] = videos[start:start + count]
        start += count
    return parts


def deal(classes: Classes, shares: Dict[str, float], rng: random.Random,
         groups: Optional[Dict[str, str]] = None) -> Dict[str, Classes]:
    """{part: {class: videos}}; the groups, large ones first, each go where the counts then come nearest to the shares.

    Args:
        classes: {class: videos}.
        shares: {part: share of the videos of every class}, adding up to 1; parts of share 0 stay empty.
        rng: decides between groups of one size, and the order of videos.
        groups: {video: group}; None: every video is one of its own.

    Raises:
        ValueError: if a part with a share gets no video of a class.
    """
    label = {video: name for name, videos in classes.items() for video in videos}
    members: Dict[str, List[str]] = defaultdict(list)
    for video in label:
        members[video if groups is None else groups[video]].append(video)
    order = list(members)
    rng.shuffle(order)
    order.sort(key=lambda group: -len(members[group]))
    targets = {part: {name: share * len(videos) for name, videos in classes.items()}
               for part, share in shares.items() if share > 0}
    found = {part: {name: [] for name in classes} for part in shares}

    def cost(part: str, videos: List[str]) -> float:
        """How much farther from the shares the counts get: of each class the square of what is too much or missing."""
        change = 0.
        for name in {label[video] for video in videos}:
            more, target = sum(label[video] == name for video in videos), targets[part][name]
            before = len(found[part][name]) - target
            change += ((before + more) ** 2 - before ** 2) / target
        return change

    for group in order:
        part = min(targets, key=lambda part: cost(part, members[group]))
        for video in members[group]:
            found[part][label[video]].append(video)
    for part in targets:
        for name in classes:
            if not found[part][name]:
                count = len({group for group in members if any(label[v] == name for v in members[group])})
                raise ValueError(f'{part} gets no video of class {name!r}: it has {len(classes[name])} video(s) in '
                                 f'{count} group(s), which stay together, and {len(targets)} lists need one each. Add '
                                 'videos, take fewer --folds, or set --val or --test to 0.')
    return found


def folds(classes: Classes, count: int, rng: random.Random, with_val: bool,
          groups: Optional[Dict[str, str]] = None) -> List[Dict[str, Classes]]:
    """``count`` splits: fold k is tested on the k-th part and validated on the next one, the others are for training.

    Every video is in the test list of exactly one fold.
    """
    parts = deal(classes, {str(k): 1 / count for k in range(count)}, rng, groups)
    made = []
    for k in range(count):
        place = {str(k): 'test', **({str((k + 1) % count): 'val'} if with_val else {})}
        lists = {part: {name: [] for name in classes} for part in ('train', 'val', 'test')}
        for part, by_class in parts.items():
            for name, videos in by_class.items():
                lists[place.get(part, 'train')][name] += videos
        made.append(lists)
    return made
