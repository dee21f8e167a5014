"""Values that stand in different places of a config and have to agree: labels with losses and metrics, views with
averages, mixed batches with class counts, frozen layers with the weights that they keep.
"""
import importlib.util
import inspect
from typing import Any, Dict, Iterator, List, Optional, Tuple

from mmaction.registry import MODELS, TRANSFORMS

from .problems import Problems

# what a component needs that pip installs on its own: (module, package)
NEEDS: Dict[str, Tuple[str, str]] = dict(
    WandbVisBackend=('wandb', 'wandb'), TensorboardVisBackend=('tensorboard', 'tensorboard'),
    MLflowVisBackend=('mlflow', 'mlflow'), ClearMLVisBackend=('clearml', 'clearml'),
    NeptuneVisBackend=('neptune', 'neptune'), DVCLiveVisBackend=('dvclive', 'dvclive'),
    AimVisBackend=('aim', 'aim'), DecordInit=('decord', 'decord'), PyAVInit=('av', 'av'), PIMSInit=('pims', 'pims'))
RANDOM = ('RandomCrop', 'RandomResizedCrop', 'RandomRescale', 'MultiScaleCrop', 'ColorJitter', 'RandomErasing',
          'EgoMotionCrop')
SINGLE_LABEL = ('top_k_accuracy', 'mean_class_accuracy')
SEVERAL_LABELS = ('mean_average_precision', 'mmit_mean_average_precision')


def installed(name: Any, key: str, problems: Problems) -> None:
    """Name what a component needs and this Python lacks."""
    module, package = NEEDS.get(str(name), (None, None))
    if module is None:
        return
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # something that stands in its place in sys.modules
        there = False
    if not there:
        problems.add(key, f'{name!r} needs {package}, which is not installed here. pip install {package}, or use '
                     'another one.')


def check_backends(visualizer: Any, problems: Problems) -> None:
    """What the visualizer writes to."""
    backends = visualizer.get('vis_backends') if isinstance(visualizer, dict) else None
    for i, backend in enumerate(backends if isinstance(backends, (list, tuple)) else ()):
        if isinstance(backend, dict):
            installed(backend.get('type'), f'visualizer.vis_backends.{i}', problems)


# ---- labels ----

def check_labels(model: Any, multi_class: Optional[bool], problems: Problems) -> None:
    """The loss against what a line of the training list holds; ``multi_class`` None where that is not known."""
    head = model.get('cls_head') if isinstance(model, dict) else None
    loss = head.get('loss_cls') if isinstance(head, dict) else None
    kind = loss.get('type') if isinstance(loss, dict) else 'CrossEntropyLoss' if isinstance(head, dict) else None
    if multi_class is None or kind is None:
        return
    if kind == 'ClassWeightedCrossEntropyLoss' and multi_class:
        problems.add('model.cls_head.loss_cls', 'ClassWeightedCrossEntropyLoss counts one label per line, and the '
                     'training list has several (multi_class=True). Use BCELossWithLogits with class_weight=[...], one '
                     'weight per class.')
    elif kind == 'BCELossWithLogits' and not multi_class and not _blends(model):
        problems.add('model.cls_head.loss_cls', 'BCELossWithLogits compares a score per class with a label per class, '
                     'and the training list has one label per line. Use CrossEntropyLoss, or multi_class=True and '
                     'num_classes in the data set.')
    elif kind == 'CrossEntropyLoss' and multi_class:
        problems.warn('model.cls_head.loss_cls', 'CrossEntropyLoss takes classes to exclude each other, and the '
                      'training list has several per line (multi_class=True). BCELossWithLogits is the loss for that.')


def _metric_names(metric: Any) -> List[str]:
    if not isinstance(metric, dict) or metric.get('type') != 'AccMetric':
        return []
    names = metric.get('metric_list', SINGLE_LABEL)
    return [names] if isinstance(names, str) else list(names)


def _averages(head: Any) -> Any:
    """``average_clips`` of a head, or what its class has where the config does not say."""
    cls = MODELS.get(head['type']) if isinstance(head, dict) and isinstance(head.get('type'), str) else None
    if cls is None or 'average_clips' in head:
        return head['average_clips'] if cls is not None else 'unknown'
    for base in cls.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get('average_clips') if base is not object else None
        if parameter is not None:
            return parameter.default
    return 'unknown'


def check_scores(metrics: List[Any], key: str, model: Any, multi_class: Optional[bool], problems: Problems) -> None:
    """Metrics against labels, and against scores that nobody has averaged."""
    head = model.get('cls_head') if isinstance(model, dict) else None
    for metric in metrics:
        kind = metric.get('type') if isinstance(metric, dict) else None
        wrong = [name for name in _metric_names(metric)
                 if multi_class is not None and name in (SINGLE_LABEL if multi_class else SEVERAL_LABELS)]
        if wrong and multi_class:
            problems.add(f'{key}.metric_list', f'{wrong} are for one label per video, and the list has several '
                         "(multi_class=True). Set metric_list='mean_average_precision', and save_best to it.")
        elif wrong:
            problems.add(f'{key}.metric_list', f'{wrong} are for several labels per video, and the list has one. Set '
                         'multi_class=True and num_classes in the data set, or take AccMetric as it is.')
        elif kind in ('F1Metric', 'ConfusionMatrix') and multi_class:
            problems.add(key, f'{kind} is for one label per video, and the list has several (multi_class=True). Use '
                         "dict(type='AccMetric', metric_list='mean_average_precision').")
        if kind in ('AccMetric', 'F1Metric', 'ConfusionMatrix') and _averages(head) is None:
            problems.add('model.cls_head.average_clips', f'None leaves the clips of a video as they are, and {kind} '
                         f"({key}) needs one score per class: it would fail at the end of the evaluation. Set "
                         "average_clips='prob'.")


# ---- batches that are mixed, views that are split ----

def _blending(model: Any) -> Iterator[Tuple[str, Any]]:
    preprocessor = model.get('data_preprocessor') if isinstance(model, dict) else None
    blending = preprocessor.get('blending') if isinstance(preprocessor, dict) else None
    if not isinstance(blending, dict):
        return
    key = 'model.data_preprocessor.blending'
    augments = blending.get('augments')
    if augments is None:
        yield key, blending
        return
    listed = isinstance(augments, (list, tuple))
    for i, entry in enumerate(augments if listed else [augments]):
        yield (f'{key}.augments.{i}' if listed else f'{key}.augments'), entry


def _blends(model: Any) -> bool:
    return any(True for _ in _blending(model))


def check_blending(model: Any, num_classes: Optional[int], problems: Problems) -> None:
    """Mixup and cutmix make labels of their own length."""
    for key, entry in _blending(model):
        own = entry.get('num_classes') if isinstance(entry, dict) else None
        if own is not None and num_classes is not None and own != num_classes:
            problems.add(f'{key}.num_classes', f'{own}, and model.cls_head.num_classes is {num_classes}: the mixed '
                         f'labels would not fit the scores in the first step. Set it to {num_classes}.')


def check_views(model: Any, loaders: Dict[str, Any], problems: Problems) -> None:
    """``max_testing_views`` splits the views of one video."""
    views = (model.get('test_cfg') or {}).get('max_testing_views') if isinstance(model, dict) else None
    if not views:
        return
    if not isinstance(views, int) or isinstance(views, bool) or views < 1:
        problems.add('model.test_cfg.max_testing_views', f'must be a positive whole number of views, got {views!r}.')
        return
    for key, loader in loaders.items():
        size = loader.get('batch_size') if isinstance(loader, dict) else None
        if isinstance(size, int) and size > 1:
            problems.add(f'{key}.batch_size', f'{size}, and model.test_cfg.max_testing_views={views} splits the views '
                         'of one video at a time. Set batch_size=1 here, or take max_testing_views out.')


# ---- normalisation, frozen layers ----

def check_preprocessor(model: Any, problems: Problems) -> None:
    """Means and standard deviations: as many, not zero, and of pixels from 0 to 255."""
    cfg = model.get('data_preprocessor') if isinstance(model, dict) else None
    mean, std = (cfg.get('mean'), cfg.get('std')) if isinstance(cfg, dict) else (None, None)
    key = 'model.data_preprocessor'
    if not all(isinstance(value, (list, tuple)) and value and all(isinstance(v, (int, float)) for v in value)
               for value in (mean, std)):
        return
    if len(mean) != len(std):
        problems.add(f'{key}.std', f'{len(std)} values, and mean has {len(mean)}. Give one of each per channel.')
    elif min(std) <= 0:
        problems.add(f'{key}.std', f'{list(std)}: pixels are divided by it, so each must be above 0.')
    elif max(std) < 1 and max(abs(value) for value in mean) <= 1:
        problems.warn(f'{key}.std', f'{list(std)}: frames have pixels from 0 to 255, so these leave values of '
                      f'hundreds. Those for pixels from 0 to 1 are to be multiplied by 255: '
                      f'{[round(v * 255, 3) for v in std]}.')


def check_frozen(model: Any, load_from: Any, resume: bool, problems: Problems) -> None:
    """Layers that stay as they are, where nothing has given them weights."""
    backbone = model.get('backbone') if isinstance(model, dict) else None
    if not isinstance(backbone, dict) or backbone.get('pretrained') or load_from or resume:
        return
    inits = [part.get('init_cfg') for part in (backbone, model)]
    flat = [init for value in inits for init in (value if isinstance(value, (list, tuple)) else [value])]
    if any(isinstance(init, dict) and init.get('type') == 'Pretrained' for init in flat):
        return
    frozen = backbone.get('frozen_stages')
    if isinstance(frozen, int) and frozen >= 0:
        problems.warn('model.backbone.frozen_stages', f'{frozen}, and no weights are loaded (pretrained, init_cfg, '
                      'load_from): these stages would stay at random. Load weights, or set frozen_stages=-1.')
    if backbone.get('norm_eval'):
        problems.warn('model.backbone.norm_eval', 'True, and no weights are loaded (pretrained, init_cfg, load_from): '
                      'the norms would keep the mean 0 and variance 1 that they start with. Load weights, or set it to '
                      'False.')


def check_dropout(model: Any, problems: Problems) -> None:
    """A head that drops everything."""
    head = model.get('cls_head') if isinstance(model, dict) else None
    ratio = head.get('dropout_ratio') if isinstance(head, dict) else None
    if ratio is not None and (not isinstance(ratio, (int, float)) or isinstance(ratio, bool) or not 0 <= ratio < 1):
        problems.add('model.cls_head.dropout_ratio', f'must be a share from 0 to below 1, got {ratio!r}: with 1 the '
                     'classifier would see zeros only.')


# ---- evaluation that draws at random ----

def check_evaluation_pipeline(pipeline: Any, key: str, problems: Problems) -> None:
    """Clips and crops drawn at random give another number each time."""
    for i, step in enumerate(pipeline if isinstance(pipeline, (list, tuple)) else ()):
        if not isinstance(step, dict):
            continue
        name = str(step.get('type'))
        if name in RANDOM or name == 'Flip' and step.get('flip_ratio', .5) not in (0, 1, 0., 1.):
            problems.warn(f'{key}.{i}', f'{name} draws at random, and this pipeline evaluates: the result would be '
                          'another one each time. Take it out, or use Resize and CenterCrop.')
        cls = TRANSFORMS.get(name) if 'Sample' in name else None
        if cls is not None and 'test_mode' in _arguments(cls) and not step.get('test_mode', False):
            problems.warn(f'{key}.{i}.test_mode', f'{name} draws the clip at random unless test_mode=True, and this '
                          'pipeline evaluates: the result would be another one each time. Set test_mode=True.')


def _arguments(cls: type) -> List[str]:
    return [name for base in cls.__mro__ if '__init__' in vars(base) for name in inspect.signature(base).parameters]


def check_classes_seen(train: Any, val: Any, num_classes: Optional[int], key: str, problems: Problems) -> None:
    """Classes that the training never shows; ``train`` and ``val`` are sets of labels, None where not known."""
    if not train:
        return
    new = sorted(label for label in (val or set()) - train if num_classes is None or 0 <= label < num_classes)
    if new:
        problems.warn(key, f'has videos of classes that the training list has none of: {new[:8]}'
                      f'{"..." if len(new) > 8 else ""}. Lists of different data sets, or of different class orders?')
    elif num_classes is not None and max(train) < num_classes and (unseen := sorted(set(range(num_classes)) - train)):
        problems.warn('model.cls_head.num_classes', f'{num_classes}, and the training list has no video of '
                      f'{len(unseen)} of these classes: {unseen[:8]}{"..." if len(unseen) > 8 else ""}. Set '
                      'num_classes to the number of your classes, or complete the list.')


def check_overlap(train: Any, other: Any, key: str, problems: Problems) -> None:
    """Videos that are trained on and evaluated on; sets of (path, part)."""
    same = sorted((train or set()) & (other or set()))
    if same:
        problems.warn(key, f'{len(same)} of {len(other)} videos are in the training list too, such as {same[0][0]}: '
                      'the result would not be that of unseen videos. Take them out of one list.')
