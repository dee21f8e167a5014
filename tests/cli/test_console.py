"""What a training and a test show on the console, counted."""
import logging
import re
import types

import pytest
from helpers.paths import ROOT
from helpers.tiny_project import make_project, run, run_here
from mmengine.logging import MMLogger

from tconv_mmaction.cli import console
from tconv_mmaction.utils.run_logs import label_of, mean_and_spread, read_runs, read_scalars

TOOLS = ROOT / 'tools'


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """A trained project, with what the training printed and what a test of it printed."""
    folder = tmp_path_factory.mktemp('console')
    make_project(folder)
    train = run(['python', TOOLS / 'train.py', 'tiny.py', '--work-dir', 'tiny_seed0', '--cfg-options',
                 'train_cfg.max_epochs=2'], folder)
    checkpoint = next((folder / 'tiny_seed0').glob('best_*.pth'))
    test = run_here(['python', TOOLS / 'test.py', 'tiny.py', checkpoint, '--work-dir', 'tested'], folder)
    return folder, train, test


def test_a_training_starts_with_few_lines_and_the_file_has_all(project):
    folder, train, _ = project
    lines = (train.stdout + train.stderr).splitlines()
    start = next(number for number, line in enumerate(lines) if 'Epoch(train)' in line)
    assert start <= 40, '\n'.join(lines[:start])
    assert any(re.search(r'Config: \d+ lines in the log file', line) for line in lines[:start])
    path = re.search(r'in the log file (\S+\.log) \(--verbose', train.stdout)[1]
    whole = (folder / path).read_text()
    assert whole.count('\n') > start + 100
    assert 'Hooks will be executed' in whole and "type='Recognizer3D'" in whole and 'System environment' in whole
    assert 'MultiScaleDeformableAttention' not in train.stdout + train.stderr


def test_verbose_shows_all(project):
    folder, _, _ = project
    done = run_here(['python', TOOLS / 'train.py', 'tiny.py', '--work-dir', 'loud', '--verbose', '--no-validate',
                     '--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_best=None'], folder)
    assert 'System environment' in done.stdout and "type='Recognizer3D'" in done.stdout


def test_a_test_reports_every_class_in_a_few_lines(project):
    folder, _, test = project
    lines = test.stdout.splitlines()
    assert len(lines) <= 40, test.stdout
    number = float(re.findall(r'acc/top1: ([\d.]+)', test.stdout)[-1])
    shares = [(float(share), int(count)) for share, count in re.findall(r'([\d.]+)% of (\d+)', test.stdout)]
    assert [count for _, count in shares] == [8, 8]
    assert sum(share * count for share, count in shares) / 1600 == pytest.approx(number, abs=1e-3)
    assert {'confusion_matrix.png', 'confusion_matrix.csv', 'class_report.csv'} <= {
        path.name for path in (folder / 'tested').iterdir()}


def emitted(messages, bar=False, level=logging.INFO):
    """What a brief console shows of these messages."""
    shown, handler = [], logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())
    handler.addFilter(console.BriefConsole(handler, types.SimpleNamespace(handlers=[]), bar))
    for message in messages:
        handler.handle(logging.LogRecord('name', level, __file__, 1, message, None, None))
    return shown


def test_long_messages_become_a_line_and_warnings_stay_whole():
    long = '\n' + '-' * 60 + '\nSystem environment:\n' + 'x\n' * 30
    assert emitted([long]) == ['System environment: 33 lines, which --verbose shows']
    assert emitted([long], level=logging.WARNING) == [long]
    short = ['Saving checkpoint at 3 epochs', 'a\nb']
    assert emitted([short[0], 'Exp name: x', short[1]]) == short


def test_the_bar_stands_for_the_lines_of_a_test_but_not_for_its_result():
    lines = ['Epoch(test) [1/6]  eta: 0:00:01', 'Epoch(test) [6/6]  acc/top1: 0.5', 'Load checkpoint']
    assert emitted(lines, bar=True) == lines[1:] and emitted(lines) == lines


def test_the_bar_counts_samples(capsys):
    hook = console.ProgressHook()
    hook.before_test_epoch(types.SimpleNamespace(test_dataloader=types.SimpleNamespace(dataset=range(5))))
    for count in (3, 3):  # padded to whole batches over several processes, more may come than there are
        hook.after_test_iter(None, 0, outputs=[None] * count)
    hook.after_test_epoch(None)
    assert '5/5' in capsys.readouterr().out and hook.bar.completed == 5


def test_loggers_made_later_are_not_brief():
    with console.brief(bar=False):
        inside = MMLogger('inside', logger_name='inside')
    outside = MMLogger('outside', logger_name='outside')
    assert [any(isinstance(each, console.BriefConsole) for each in logger.handlers[0].filters)
            for logger in (inside, outside)] == [True, False]


# ---- curves ----

def write_run(folder, losses, accuracies, stamp='1'):
    path = folder / stamp / 'vis_data'
    path.mkdir(parents=True)
    lines = [f'{{"lr": 0.1, "loss": {loss}, "epoch": 1, "iter": {step}, "step": {step}}}'
             for step, loss in losses.items()]
    lines += [f'{{"acc/top1": {value}, "data_time": 0.1, "step": {step}}}' for step, value in accuracies.items()]
    (path / 'scalars.json').write_text('\n'.join(lines))


def test_scalars_of_a_resumed_run(tmp_path):
    write_run(tmp_path, {10: 3., 20: 2.}, {1: .5})
    write_run(tmp_path, {20: 1.5, 30: 1.}, {2: .75}, stamp='2')
    table = read_scalars(tmp_path)
    assert table[table.key == 'loss'][['step', 'value']].values.tolist() == [[10, 3.], [20, 1.5], [30, 1.]]
    accuracy = table[table.key == 'acc/top1']
    assert accuracy.value.tolist() == [.5, .75] and set(accuracy.unit) == {'epoch'}
    assert set(table.key) == {'loss', 'lr', 'acc/top1'}


def test_mean_and_spread_of_two_runs(tmp_path):
    write_run(tmp_path / '3t_seed0', {10: 3., 20: 2., 30: 1.}, {})
    write_run(tmp_path / '3t_seed1', {10: 5., 20: 2.}, {})
    runs = read_runs([tmp_path / '3t_seed0', tmp_path / '3t_seed1'])
    spread = mean_and_spread(runs, 'loss', '3t')
    assert spread.index.tolist() == [10, 20] and spread['mean'].tolist() == [4., 2.]
    assert spread['std'].tolist() == pytest.approx([2 ** .5, 0.]) and spread.runs.tolist() == [2, 2]


@pytest.mark.parametrize('name, label', [('3t_seed0', '3t'), ('3t-run_12', '3t'), ('net.3', 'net'), ('conv3', 'conv3'),
                                         ('resnet18-3t', 'resnet18-3t')])
def test_labels_leave_numbers_of_runs_out(name, label):
    assert label_of(name) == label


def test_curves_of_two_runs(project, tmp_path):
    write_run(tmp_path / 'b_1', {1: 3., 2: 2.}, {1: .5})
    write_run(tmp_path / 'b_2', {1: 1., 2: 2.}, {1: .7})
    done = run_here(['python', '-m', 'tconv_mmaction', 'curves', project[0] / 'tiny_seed0', 'b_1', 'b_2', '--out-dir',
                     'out'], tmp_path)
    assert 'b: acc/top1 0.6 +- 0.1414 over 2 runs at epoch 1' in done.stdout
    assert re.search(r'^tiny: loss [\d.]+ at iteration 8$', done.stdout, re.M)
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'curves.png', 'curves.csv'}


@pytest.mark.parametrize('arguments, message', [
    (['nowhere'], 'nowhere has no vis_data/scalars.json'), (['b_1', '--keys', 'los'], 'no run has los. There are: '),
    (['b_1', '--labels', 'x', 'y'], '1 runs and 2 labels')])
def test_mistakes_about_curves_are_one_line(arguments, message, tmp_path):
    write_run(tmp_path / 'b_1', {1: 3.}, {})
    done = run_here(['python', TOOLS / 'analysis/curves.py', *arguments], tmp_path, check=False)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1
