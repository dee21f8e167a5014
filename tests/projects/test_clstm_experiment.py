"""The C-LSTM against I3D experiment and its benchmark: networks, bookkeeping, plain implementations."""
import json
import sys
from pathlib import Path

import mmengine
import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT
from helpers.scripts import load_script
from helpers.videos import write_film
from mmaction.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from tconv_mmaction.backbones import ConvLSTMNet, InceptionI3d
from tconv_mmaction.layers import ConvLSTM2d

CONFIGS = ROOT / 'projects/clstm_against_i3d/configs'


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(CONFIGS))
    return load_script('projects/clstm_against_i3d/clstm_against_i3d.py')


@pytest.fixture
def benchmark():
    return load_script('tools/benchmarks/conv_lstm.py')


@pytest.fixture
def videos(tmp_path):
    """Two AVIs of 20 frames of 60x80 whose grey value is 10 times the frame's number, with lists for split 1."""
    for folder, name in (('sit', 'a'), ('stand', 'b')):
        write_film(tmp_path / f'videos/{folder}/{name}.avi',
                   [np.full((60, 80, 3), 10 * t, np.uint8) for t in range(20)])
    for part in ('train', 'test'):
        (tmp_path / f'sitstand_{part}_split1.txt').write_text('sit/a.avi 0\nstand/b.avi 1\n')
    return tmp_path


def result(order, label, predicted, split=1, model='clstm', clips='test'):
    right = np.mean(np.equal(label, predicted))
    return dict(model=model, split=split, clips=clips, order=order, accuracy=right, f1=right, f1_sit=0.5, f1_stand=None,
                label=label, predicted=predicted)


def test_narrow_i3d_of_full_width_is_i3d(experiment):
    from narrow_i3d import NarrowInceptionI3d
    ours, wide = InceptionI3d(temporal_strides=(1, 1, 2)).eval(), NarrowInceptionI3d(1., (1, 1, 2)).eval()
    wide.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(wide(x), ours(x), rtol=0, atol=0)
    assert sum(p.numel() for p in wide.parameters()) == 12_287_264
    quarter = NarrowInceptionI3d(0.25, (1, 1, 2), norm_momentum=0.1)
    assert (sum(p.numel() for p in quarter.parameters()), quarter.out_channels) == (783_032, 256)
    assert {m.momentum for m in quarter.modules() if isinstance(m, torch.nn.BatchNorm3d)} == {0.1}
    with pytest.raises(ValueError, match=r'width must be in \(0, 1\], got 2'):
        NarrowInceptionI3d(2)


@pytest.mark.parametrize('name, count', [('clstm', 87_938), ('clstm_shared', 87_906), ('i3d', 783_546)])
def test_configs_train_on_the_same_frames(experiment, videos, name, count):
    """Parameter counts, the frames of the whole video (0 and 19 included), and one step that lowers the loss."""
    config = Config.fromfile(CONFIGS / f'{name}.py')
    model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters()) == count
    dataset = config.train_dataloader.dataset
    dataset.update(ann_file=str(videos / 'sitstand_train_split1.txt'), data_prefix=dict(video=str(videos / 'videos')))
    dataset = DATASETS.build(dataset)
    batch = pseudo_collate([dataset[0], dataset[1]])
    grey = torch.stack(batch['inputs']).float().mean(dim=(1, 2, 4, 5))
    # round(k * 19 / 15), ten grey values per frame, give or take colour conversion
    wanted = 10 * torch.tensor([0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19.])
    assert torch.stack(batch['inputs']).shape == (2, 1, 3, 16, 48, 64)
    torch.testing.assert_close(grey, wanted.expand(2, 16), rtol=0, atol=2.)

    data = model.data_preprocessor(batch, training=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    values = []
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.
    for _ in range(2):
        loss = model(**data, mode='loss')['loss_cls']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    # the clips are alike but for their label, so the loss is ln 2 at best
    assert np.log(2) - 1e-4 <= values[1] < values[0]


def test_kept_frames_are_decoded_once_and_not_flipped_twice(experiment, videos):
    from keep_frames import KeepFrames
    steps = [dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=4), dict(type='DecordDecode')]
    keep = KeepFrames(steps)
    name = str(videos / 'videos/sit/a.avi')
    first = keep(dict(filename=name, label=0, start_index=0, modality='RGB'))
    first['imgs'][0][:] = 77
    Path(name).unlink()
    second = keep(dict(filename=name, label=3, start_index=0, modality='RGB'))
    assert second['label'] == 3 and second['num_clips'] == 1
    assert [int(np.median(image)) // 10 * 10 for image in second['imgs']] == pytest.approx([0, 60, 130, 190], abs=10)


def test_majority_baseline_by_hand(experiment):
    # always 1: two of five right; F1 of 1 is 2*2 / (2*2 + 3 + 0), of 0 it is 0
    base = experiment.majority_baseline([0, 1, 1], [0, 0, 0, 1, 1])
    assert base == dict(label=1, accuracy=0.4, f1=pytest.approx(2 / 7))
    assert experiment.majority_baseline([1, 0], [0])['label'] == 0


def test_rows_changes_and_table_by_hand(experiment):
    results = [result('normal', [0, 0, 1, 1], [0, 0, 1, 0]), result('reversed', [0, 0, 1, 1], [1, 0, 1, 1]),
               result('normal', [0, 1], [1, 1], split=2), result('reversed', [0, 1], [1, 0], split=2),
               result('normal', [0, 1], [0, 1], clips='train')]
    rows = experiment.result_rows(results)
    assert rows[['n', 'right']].values.tolist() == [[4, 3], [4, 3], [2, 1], [2, 0], [2, 2]]
    # all n right: the exact interval is [(0.05 / 2)**(1 / n), 1]
    assert rows.iloc[4][['accuracy_low', 'accuracy_high']].tolist() == [round(0.025**0.5, 4), 1.]
    changes = experiment.direction_changes(results)
    assert changes.values.tolist() == [['clstm', 6, 3, 2, 1]]

    lists = {1: dict(train={'a': 0, 'b': 0, 'c': 1}, test=dict(d=0, e=0, f=1, g=1)),
             2: dict(train={'a': 1}, test=dict(d=0, h=1))}
    losses = [dict(model='clstm', split=s, epoch=e, loss=v) for s, e, v in
              [(1, 1, 0.9), (1, 2, 0.5), (2, 1, 0.7), (2, 2, 0.5)]]
    majority = experiment.majority_rows(lists)
    text = experiment.table(pd.concat([rows, majority]), experiment.change_rows(results, lists), pd.DataFrame(losses))
    assert '| C-LSTM | 0.62 ± 0.18 | 0.62 ± 0.18 | 0.75, 0.50 | 1.00 |' in text
    assert '| C-LSTM (rev.) | 0.38 ± 0.53 | 0.38 ± 0.53 | 0.75, 0.00 |  |' in text
    assert '| always the majority of the training clips | 0.33 ± 0.00 | 0.50 ± 0.00 | 0.50, 0.50 |' in text
    assert 'Test clips: 4, 2 (5 different ones)' in text
    assert '| C-LSTM | 0.80 ± 0.14 | 0.50 ± 0.00 |' in text


def test_the_page_is_what_the_committed_files_give(experiment, tmp_path, monkeypatch, capsys):
    results = ROOT / 'projects/clstm_against_i3d/results'
    for path in results.glob('*.csv'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr('sys.argv', ['study', '--out-dir', str(tmp_path), '--table-only'])
    assert experiment.main() == 0
    table = (tmp_path / 'table.md').read_text()
    assert table == (results / 'table.md').read_text()
    assert table.strip() in (ROOT / 'docs/clstm_against_i3d.md').read_text()
    (tmp_path / 'losses.csv').unlink()
    assert experiment.main() == 2 and 'has no losses.csv: run the study first' in capsys.readouterr().err


def test_what_is_finished_is_not_run_again(experiment, videos, monkeypatch):
    """With a stand-in for the processes: one training and one test, once; an unfinished training is resumed."""
    calls = []

    def run(command, log, show=''):
        calls.append(command)
        folder = Path(command[command.index('--work-dir') + 1])
        folder.mkdir(parents=True, exist_ok=True)
        if 'tools/train.py' in command:
            (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
            return
        (folder / 'now').mkdir()
        (folder / 'now/now.json').write_text('{"f1/top1": 1.0, "f1/mean": 1.0, "f1/sit": 1.0, "f1/stand": 1.0}')
        scores = [dict(gt_label=torch.tensor([0]), pred_score=torch.tensor([0.7, 0.3]))]
        mmengine.dump(scores, command[command.index('--dump') + 1])

    monkeypatch.setattr(experiment, 'run', run)
    folder = videos / 'runs/clstm_split1'
    folder.mkdir(parents=True)
    (folder / 'last_checkpoint').write_text('somewhere/epoch_1.pth')
    for _ in range(2):
        checkpoint = experiment.train('clstm', 1, folder, videos, 2)
        row = experiment.test('clstm', 1, folder, videos, checkpoint, 'test', 'reversed')
    assert [command[1] for command in calls] == ['tools/train.py', 'tools/test.py']
    assert checkpoint == folder / 'epoch_2.pth' and '--resume' in calls[0]
    assert 'test_dataloader.dataset.pipeline.2.enabled=True' in calls[1]
    assert (row['accuracy'], row['label'], row['predicted']) == (1., [0], [0])
    assert json.loads((folder / 'test_reversed.json').read_text()) == row


def test_mistakes_are_named(experiment, tmp_path):
    with pytest.raises(FileNotFoundError, match='--data-root must have videos/'):
        experiment.read_list(tmp_path / 'sitstand_train_split1.txt')
    experiment.check_settings(tmp_path, dict(epochs=1))
    experiment.check_settings(tmp_path, dict(epochs=1))
    with pytest.raises(ValueError, match='another --work-dir'):
        experiment.check_settings(tmp_path, dict(epochs=2))
    with pytest.raises(RuntimeError, match='ended with 3.*\n(.*\n)*the reason'):
        experiment.run([sys.executable, '-c', 'print("the reason"); raise SystemExit(3)'], tmp_path / 'log')


@pytest.mark.parametrize('whole_net', [False, True])
def test_benchmark_compares_equals_and_would_notice(benchmark, whole_net, monkeypatch):
    ours = ConvLSTMNet(2, 4) if whole_net else benchmark.OneLayer(ConvLSTM2d(3, 4, 5, 2))
    benchmark.check(ours, 3)
    original = benchmark.PlainCell.__init__

    def shifted(self, cell, parts):
        original(self, cell, parts)
        self.state_convs[-1].weight.data[-1, -1, -1, -1] += 1e-6
    monkeypatch.setattr(benchmark.PlainCell, '__init__', shifted)
    with pytest.raises(AssertionError, match='convolutions per step'):
        benchmark.check(ours, 3)
