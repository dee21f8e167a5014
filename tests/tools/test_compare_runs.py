"""tools/compare_runs.py on the tiny project: two models, resumed, against predictions counted by hand."""
import json

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_project import make_project, run_here
from mmengine.config import Config

from tconv_mmaction.cli.training_run import innermost, reversed_inputs, with_fold

TOOL = ROOT / 'tools/compare_runs.py'


def test_two_models_two_seeds(tmp_path):
    config = make_project(tmp_path)
    text = config.read_text().replace('max_epochs=3', 'max_epochs=2')
    config.write_text(text)
    (tmp_path / 'plain.py').write_text(text.replace("dict(type='Conv3T')", "dict(type='Conv3d')"))
    models = ['3t=tiny.py', '3d=plain.py']
    done = run_here(['python', TOOL, 'out', *models, '--seeds', '0', '1'], tmp_path)
    assert '0 of 4 runs are there, 4 to do' in done.stdout and '| 3d − 3t | 2 |' in done.stdout
    runs = [json.loads(line) for line in (tmp_path / 'out/runs.jsonl').read_text().splitlines()]
    assert [(run['model'], run['seed'], run['fold']) for run in runs] == [
        ('3t', 0, 'own lists'), ('3d', 0, 'own lists'), ('3t', 1, 'own lists'), ('3d', 1, 'own lists')]
    for run in runs:
        assert run['labels'] == [0, 1] * 8 and len(run['losses']) == 2 and run['tested'].startswith('best_acc_top1')
        right = sum(a == b for a, b in zip(run['labels'], run['predicted']))
        assert run['accuracy'] == pytest.approx(100 * right / 16, abs=1e-3)
    assert runs[0]['losses'] != runs[2]['losses'] and runs[0]['parameters'] < runs[1]['parameters']
    assert not list((tmp_path / 'out').rglob('*.pth')) and (tmp_path / 'out/curves.png').is_file()

    # nothing is run again, a new seed is added; the same seed gives the same run
    (tmp_path / 'out/runs.jsonl').write_text(''.join(json.dumps(run) + '\n' for run in runs[1:]))
    again = run_here(['python', TOOL, 'out', *models, '--seeds', '0', '1'], tmp_path)
    assert '3 of 4 runs are there, 1 to do' in again.stdout
    last = json.loads((tmp_path / 'out/runs.jsonl').read_text().splitlines()[-1])
    assert all(last[name] == runs[0][name] for name in ('model', 'seed', 'losses', 'predicted', 'predicted_reversed'))
    table = run_here(['python', TOOL, 'out', '--table-only'], tmp_path)
    assert '### Per class' in table.stdout

    other = run_here(['python', TOOL, 'out', *models, '--cfg-options', 'train_cfg.max_epochs=1'], tmp_path, check=False)
    assert other.returncode == 2 and 'with another config (or other --cfg-options)' in other.stderr


def test_mistakes_are_one_line(tmp_path):
    make_project(tmp_path)
    for words, message in ((['out', 'a=tiny.py', 'a=tiny.py'], "two models are called 'a'"),
                           (['out', 'nowhere.py'], 'nowhere.py is no config'),
                           (['out', '--table-only'], 'has no runs yet'),
                           (['out', 'tiny.py', '--folds', 'f1'], 'train.txt is not there')):
        done = run_here(['python', TOOL, *words], tmp_path, check=False)
        assert done.returncode == 2 and message in done.stderr, done.stderr


def test_lists_of_a_fold(tmp_path):
    for name in ('train.txt', 'test.txt'):
        (tmp_path / name).write_text('a.mp4 0\n')
    cfg = Config(dict(
        train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dict(type='VideoDataset'))),
        val_dataloader=dict(dataset=dict(type='VideoDataset')), val_cfg=dict(), val_evaluator=dict(),
        test_dataloader=dict(dataset=dict(type='VideoDataset', ann_file='own.txt')),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', save_best='acc/top1')),
        custom_hooks=[dict(type='EarlyStoppingHook'), dict(type='Other')]))
    fold = with_fold(cfg, tmp_path)
    assert innermost(fold.train_dataloader.dataset).ann_file == str(tmp_path / 'train.txt')
    assert fold.test_dataloader.dataset.ann_file == str(tmp_path / 'test.txt')
    assert fold.val_dataloader is None and fold.default_hooks.checkpoint.save_best is None
    assert [hook.type for hook in fold.custom_hooks] == ['Other']
    (tmp_path / 'val.txt').write_text('a.mp4 0\n')
    assert with_fold(cfg, tmp_path).val_dataloader.dataset.ann_file == str(tmp_path / 'val.txt')
    assert cfg.test_dataloader.dataset.ann_file == 'own.txt' and with_fold(cfg, None).pretty_text == cfg.pretty_text


def test_clips_are_played_backwards():
    clip = torch.arange(2 * 3 * 4).reshape(2, 3, 4, 1, 1)  # two clips of four frames
    assert reversed_inputs(clip)[1, 2, :, 0, 0].tolist() == [23, 22, 21, 20]
    frames = torch.arange(6).reshape(3, 2, 1, 1)  # three frames of a 2D recognizer
    assert reversed_inputs(frames)[:, 0, 0, 0].tolist() == [4, 2, 0]
    with pytest.raises(ValueError, match='a clip must be'):
        reversed_inputs(torch.zeros(3))
