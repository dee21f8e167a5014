"""One training of a config with a seed and the lists of a fold, tested forwards and backwards.

The training itself is MMEngine's Runner and the config's own; this module sets the seed, the lists and the folder, and
reads what a comparison needs: every prediction, the loss of every epoch.
"""
import copy
import hashlib
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner, load_checkpoint
from torch import Tensor

from ..setup_checks import check_once

LISTS = {'train': 'train.txt', 'val': 'val.txt', 'test': 'test.txt'}


class LossCurve(Hook):
    """The mean training loss of every epoch, in ``losses``; NaN where a model reports no 'loss'."""

    def __init__(self) -> None:
        self.losses: List[float] = []
        self._values: List[float] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        value = (outputs or {}).get('loss')
        self._values.append(value.item() if isinstance(value, Tensor) else float('nan'))

    def after_train_epoch(self, runner) -> None:
        self.losses.append(sum(self._values) / max(len(self._values), 1))
        self._values = []


def fingerprint(cfg: Config) -> str:
    """Eight characters that change when the config does."""
    return hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:8]


def innermost(dataset: dict) -> dict:
    """The data set inside wrappers such as RepeatDataset."""
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return dataset


def with_fold(cfg: Config, fold: Optional[Path]) -> Config:
    """A copy of ``cfg`` whose data sets read ``train.txt``, ``val.txt`` and ``test.txt`` of a folder.

    Without a ``val.txt`` there is no validation, and the last epoch is what is tested.

    Raises:
        FileNotFoundError: if ``train.txt`` or ``test.txt`` is not there.
    """
    cfg = copy.deepcopy(cfg)
    if fold is None:
        return cfg
    for part, name in LISTS.items():
        if (fold / name).is_file():
            if cfg.get(f'{part}_dataloader') is not None:
                innermost(cfg[f'{part}_dataloader']['dataset']).update(ann_file=str((fold / name).resolve()))
        elif part == 'val':
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
            checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
            if checkpoint:
                checkpoint.update(save_best=None)
            # hooks that look at validation results would wait for ever
            cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or ()
                                if hook.get('type') != 'EarlyStoppingHook']
        else:
            raise FileNotFoundError(f'{fold / name} is not there. A fold is a folder with train.txt, test.txt and '
                                    'perhaps val.txt, in the form "path label".')
    return cfg


def reversed_inputs(inputs: Tensor) -> Tensor:
    """Frames last to first: (clips, C, T, H, W) along T, the (frames, C, H, W) of 2D recognizers along the first."""
    if inputs.dim() not in (4, 5):
        raise ValueError(f'a clip must be (clips, C, T, H, W) or (frames, C, H, W), got {tuple(inputs.shape)}.')
    return inputs.flip(2 if inputs.dim() == 5 else 0)


@torch.no_grad()
def predict(runner: Runner, backwards: bool) -> Tuple[List[int], List[int]]:
    """Labels and predicted classes of the test clips, in the order of the list."""
    model = runner.model.eval()
    labels, predicted = [], []
    for batch in runner.test_dataloader:
        if backwards:
            batch = dict(batch, inputs=[reversed_inputs(x) for x in batch['inputs']])
        for sample in model.test_step(batch):
            labels.append(int(sample.gt_label.item()))
            predicted.append(int(sample.pred_score.argmax()))
    return labels, predicted


def train_and_test(cfg: Config, name: str, seed: int, work_dir: Path, keep_checkpoints: bool = False) -> Dict:
    """Train, test the best checkpoint of the validation (without one: the last epoch) forwards and backwards.

    Args:
        cfg: a config, with the lists of the fold; it is not changed.
        name: of the run, for its log.
        seed: of the weights, the order of the clips and the augmentations.
        work_dir: for the log and, while it runs, the checkpoints.
        keep_checkpoints: leave them there; otherwise they are deleted when the run is tested.

    Returns:
        dict of ``accuracy`` and ``accuracy_reversed`` in %, ``losses`` per epoch, ``parameters``, ``tested`` (which
        weights), ``labels``, ``predicted`` and ``predicted_reversed``.

    Raises:
        SetupError: for a config that cannot run, before anything is trained.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir, cfg.experiment_name = str(work_dir), name
    cfg.randomness = dict(seed=seed, deterministic=False)
    cfg.launcher = 'none'
    check_once(cfg, 'train')
    runner = Runner.from_cfg(cfg)
    curve = LossCurve()
    runner.register_hook(curve)
    runner.train()
    tested = 'last epoch'
    best = sorted(work_dir.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    if best:
        load_checkpoint(runner.model, str(best[-1]), map_location=get_device())
        tested = best[-1].stem
    labels, predicted = predict(runner, False)
    _, backwards = predict(runner, True)
    if not keep_checkpoints:
        for path in work_dir.glob('*.pth'):
            path.unlink()
        (work_dir / 'last_checkpoint').unlink(missing_ok=True)
    count = max(len(labels), 1)
    return dict(
        accuracy=round(100 * sum(a == b for a, b in zip(labels, predicted)) / count, 3),
        accuracy_reversed=round(100 * sum(a == b for a, b in zip(labels, backwards)) / count, 3),
        losses=[round(loss, 4) for loss in curve.losses],
        parameters=sum(p.numel() for p in runner.model.parameters()), tested=tested, labels=labels,
        predicted=predicted, predicted_reversed=backwards)
