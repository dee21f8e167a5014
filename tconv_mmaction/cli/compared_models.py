"""The two models of a comparison, and what they must have in common: videos, classes, the clips that are chosen."""
from typing import List, Optional, Tuple

from torch import Tensor

from ..interpret.access.balanced import balanced_order
from ..interpret.access.clips import ClipReader, load_recognizer
from ..interpret.access.targets import class_names, read_target, target_of
from ..interpret.comparison.comparison_log import file_hash, text_hash
from ..interpret.comparison.model_comparison import Settings, comparison_layer


def reason(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f'{type(error).__name__}: {text}'


class Model:
    """One of the two: network, clips, and the layer to look at."""

    def __init__(self, number: int, config: str, checkpoint: str, layer: Optional[str], args) -> None:
        self.number, self.config, self.checkpoint = number, config, checkpoint
        self.network = load_recognizer(config, checkpoint, args.device, args.cfg_options)
        self.reader = ClipReader(self.network, args.view)
        self.videos = self._videos()
        self.layer = comparison_layer(self.network, self._any_clip(), layer)
        cfg = self.network.cfg
        seen = [cfg.get('model'), cfg.get('test_pipeline'), cfg.test_dataloader['dataset'], args.view]
        self.fingerprint = {'configuration (model, test data, pipeline, view)': text_hash(seen),
                            'checkpoint': checkpoint if '://' in checkpoint else file_hash(checkpoint),
                            'list of videos': text_hash(self.videos), 'layer': self.layer,
                            'blobs': 'of the maps of the layer as they are, not of copies for every frame'}

    def _videos(self) -> List[Tuple[str, Tuple[int, ...]]]:
        """Name, as short as tells them apart, and labels of every clip."""
        videos = list(zip(self.reader.file_names('test'), self.reader.labels('test')))
        if not videos:
            raise ValueError(f'the test data set of {self.config} is empty.')
        return videos

    def _any_clip(self) -> Tensor:
        for i in range(len(self.videos)):
            try:
                return self.reader.sample('test', i).inputs
            except Exception as error:  # an odd clip; it gets its row when its turn comes
                last = error
        raise ValueError(f'no clip of the test data set of {self.config} can be read. The last reason: {reason(last)}')


def same_videos(models: List[Model]) -> int:
    """How many clips both test sets have; ValueError if they are not the same ones."""
    first, second = (model.videos for model in models)
    if first != second:
        if len(first) != len(second):
            what = f'{len(first)} and {len(second)} clips'
        else:
            i = next(i for i in range(len(first)) if first[i] != second[i])
            what = f'clip {i} is {first[i]} of the first and {second[i]} of the second (name, labels)'
        raise ValueError(f'the two test data sets are not the same videos in the same order: {what}. Give both configs '
                         'the same list, for example --cfg-options test_dataloader.dataset.ann_file=LIST.')
    return len(first)


def names_of(models: List[Model], args) -> List[str]:
    """Names of the classes; ValueError if the two models have other ones."""
    first, second = (model.reader.class_names(args.classes, 'test') for model in models)
    if len(first) != len(second):
        raise ValueError(f'the models have {len(first)} and {len(second)} classes: their scores are of other classes.')
    unnamed = class_names(None, len(first))
    if unnamed in (first, second):  # one of them knows its classes by number only
        return second if first == unnamed else first
    if first != second:
        i = next(i for i in range(len(first)) if first[i] != second[i])
        raise ValueError(f'class {i} is {first[i]!r} of the first model and {second[i]!r} of the second: their classes '
                         'are not the same in the same order. If only the names differ, give --classes.')
    return first


def settings_of(models: List[Model], args) -> Settings:
    """The settings, --target read: a word or the index of a class."""
    names = names_of(models, args)
    settings = Settings(read_target(args.target, names), args.iterations, args.lambda1, args.lambda2, args.threshold)
    settings.check()
    if settings.target == 'label':
        for _, labels in models[0].videos:
            if len(labels) > 1:
                target_of('label', labels, names)  # says which, and what to do
    return settings


def chosen_clips(models: List[Model], args) -> List[int]:
    """Indices of all clips, or of a balanced sample, in the order of the work."""
    if args.max_samples is not None and args.max_samples < 1:
        raise ValueError(f'--max-samples must be at least 1, got {args.max_samples}.')
    count = same_videos(models)
    if args.max_samples is None or args.max_samples >= count:
        return list(range(count))
    return balanced_order([labels for _, labels in models[0].videos], args.sample_seed)[:args.max_samples]
