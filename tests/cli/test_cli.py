"""mmaction2's own scripts, ours, and ``python -m tconv_mmaction`` on a tiny but whole project."""
import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_project import make_project, run, run_here

import tconv_mmaction
from tconv_mmaction.cli import doctor, mim_scripts
from tconv_mmaction.cli import main as main_module
from tconv_mmaction.compat import requirements

THEIRS = mim_scripts.scripts_folder()
OURS = ROOT / 'tools'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The folder of a project that mmaction2's own tools/train.py trained for two epochs, with a changed option."""
    folder = tmp_path_factory.mktemp('project')
    config = make_project(folder)
    done = run(['python', THEIRS / 'train.py', config, '--work-dir', 'work', '--seed', '0', '--auto-scale-lr',
                '--cfg-options', 'train_cfg.max_epochs=2', 'optim_wrapper.optimizer.lr=0.002'], folder)
    assert 'lr: 2.0000e-03' in done.stdout
    return folder


def accuracy(output):
    return float(re.findall(r'acc/top1: ([\d.]+)', output)[-1])


def test_their_train_script_writes_checkpoints_and_the_best_one(trained):
    files = {path.name for path in (trained / 'work').glob('*.pth')}
    assert {'epoch_1.pth', 'epoch_2.pth'} <= files and any(name.startswith('best_acc_top1') for name in files)
    state = torch.load(trained / 'work/epoch_2.pth')['state_dict']
    assert state['backbone.conv1.scale'].shape == (4, 3) and (state['backbone.conv1.scale'] != 1).any()


def test_their_train_script_resumes(trained):
    done = run_here(['python', THEIRS / 'train.py', trained / 'tiny.py', '--work-dir', 'work', '--resume', '--seed',
                     '0'], trained)
    assert 'resumed epoch: 2, iter: 8' in done.stdout and (trained / 'work/epoch_3.pth').is_file()


def test_their_and_our_test_script_agree(trained):
    best = next((trained / 'work').glob('best_acc_top1*.pth'))
    outputs, predictions = [], []
    for index, folder in enumerate((THEIRS, OURS)):
        done = run_here(['python', folder / 'test.py', 'tiny.py', best, '--dump', f'{index}.pkl', '--cfg-options',
                         'test_dataloader.batch_size=3'], trained)
        outputs.append(accuracy(done.stdout))
        assert 'Epoch(test) [6/6]' in done.stdout  # 16 clips in batches of 3
        with open(trained / f'{index}.pkl', 'rb') as file:
            predictions.append(torch.stack([sample['pred_score'] for sample in pickle.load(file)]))
    assert outputs[0] == outputs[1]
    assert torch.equal(*predictions) and predictions[0].shape == (16, 2)
    truth = torch.arange(16) % 2
    assert (predictions[0].argmax(1) == truth).double().mean().item() == pytest.approx(outputs[0])


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
def test_our_scripts_have_the_options_of_theirs(name, monkeypatch, capsys):
    texts = []
    for folder in (THEIRS, OURS):
        monkeypatch.setattr(sys, 'argv', [str(folder / name), '--help'])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(folder / name), run_name='__main__')
        assert caught.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[1].startswith(texts[0]) and '--verbose' in texts[1][len(texts[0]):]
    assert '--cfg-options' in texts[0] and '--launcher' in texts[0]


def test_a_config_without_custom_imports_works_with_our_scripts(trained):
    text = (trained / 'tiny.py').read_text().replace("imports=['tconv_mmaction', ", 'imports=[')
    (trained / 'bare.py').write_text(text)
    done = run(['python', OURS / 'train.py', 'bare.py', '--work-dir', 'bare', '--no-validate', '--cfg-options',
                'train_cfg.max_epochs=1', 'default_hooks.checkpoint.save_best=None',
                'load_from=work/epoch_2.pth'], trained)
    assert 'Load checkpoint from work/epoch_2.pth' in done.stdout and 'Epoch(val)' not in done.stdout
    assert (trained / 'bare/epoch_1.pth').is_file()


@pytest.mark.gpu
def test_amp_trains_on_a_gpu(trained):
    done = run_here(['python', THEIRS / 'train.py', 'tiny.py', '--amp', '--work-dir', 'amp', '--cfg-options',
                     'train_cfg.max_epochs=1'], trained)
    state = torch.load(trained / 'amp/epoch_1.pth', map_location='cpu')
    assert 'loss_scaler' in state['optimizer'] and 'loss: nan' not in done.stdout
    assert all(torch.isfinite(value).all() for value in state['state_dict'].values())
    done = run_here(['python', THEIRS / 'train.py', 'tiny.py', '--amp', '--work-dir', 'amp', '--resume',
                     '--cfg-options', 'train_cfg.max_epochs=2'], trained)
    assert 'resumed epoch: 1, iter: 4' in done.stdout


def test_init_recognizer_reads_a_training_checkpoint(trained):
    from mmaction.apis import init_recognizer
    text = (trained / 'tiny.py').read_text().replace(", 'tiny_components'", '')
    (trained / 'model.py').write_text(text)
    model = init_recognizer(str(trained / 'model.py'), str(trained / 'work/epoch_2.pth'), device='cpu')
    state = torch.load(trained / 'work/epoch_2.pth')['state_dict']
    assert torch.equal(model.backbone.conv1.scale, state['backbone.conv1.scale'])
    assert torch.equal(model.cls_head.fc_cls.weight, state['cls_head.fc_cls.weight'])


def test_their_publish_script_runs_with_compat(trained):
    checkpoint = trained / 'work/epoch_2.pth'
    alone = run(['python', THEIRS / 'deployment/publish_model.py', checkpoint, 'alone.pth'], trained, check=False)
    assert alone.returncode != 0 and 'was not an allowed global' in alone.stderr  # why `run` exists
    run_here(['python', '-m', 'tconv_mmaction', 'run', 'deployment/publish_model.py', checkpoint, 'ours.pth'], trained)
    published, = trained.glob('ours_*.pth')
    before, after = torch.load(checkpoint), torch.load(published)
    assert set(before) - set(after) == {'message_hub', 'optimizer', 'param_schedulers'}
    for name, value in after['state_dict'].items():
        assert torch.equal(value, before['state_dict'][name])
    palette = after['meta']['dataset_meta']['palette']
    assert palette.tolist() == [[0, 1, 2], [3, 4, 5]]


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f'touch {self.mark}',)


@pytest.mark.parametrize('command', [
    [OURS / 'test.py', 'tiny.py', 'evil.pth'],
    [THEIRS / 'train.py', 'tiny.py', '--resume', 'evil.pth', '--work-dir', 'evil']], ids=['test.py', '--resume'])
def test_a_checkpoint_that_runs_code_is_refused_on_the_command_line(command, trained):
    torch.save(dict(state_dict={}, meta=Evil(trained / 'it-ran')), trained / 'evil.pth')
    done = run_here(['python', *command], trained, check=False)
    assert done.returncode != 0 and not (trained / 'it-ran').exists()
    assert re.search(r'evil\.pth was refused, and nothing in it was run: it asks for (posix|nt)\.system', done.stderr)


def test_a_checkpoint_that_runs_code_is_refused_by_run(tmp_path, capsys):
    torch.save(dict(state_dict={}, meta=Evil(tmp_path / 'it-ran')), tmp_path / 'evil.pth')
    before = torch.load
    script = ['run', 'deployment/publish_model.py', str(tmp_path / 'evil.pth'), str(tmp_path / 'out.pth')]
    assert main_module.main(script) == 1 and torch.load is before
    assert re.search(r'Error: .*evil\.pth was refused, and nothing in it was run: it asks for (posix|nt)\.system',
                     capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ['evil.pth']


def test_run_names_the_nearest_script_and_hands_on_the_status(capsys):
    assert main_module.main(['run', 'publish_model.py', 'a', 'b']) == 1
    assert 'Did you mean deployment/publish_model.py?' in capsys.readouterr().err
    argv = list(sys.argv)
    with pytest.raises(SystemExit) as caught:
        main_module.main(['run', 'deployment/publish_model.py'])  # the script's own usage error
    assert caught.value.code == 2 and sys.argv == argv
    assert 'in_file' in capsys.readouterr().err


def test_an_mmaction2_without_its_scripts_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(mim_scripts.mmaction, '__file__', str(tmp_path / 'mmaction/__init__.py'))
    with pytest.raises(FileNotFoundError, match=r'neither in .*\.mim.* nor in .*pip install --force-reinstall'):
        mim_scripts.scripts_folder()
    (tmp_path / 'tools/deployment').mkdir(parents=True)  # a checkout of mmaction2
    (tmp_path / 'tools/train.py').touch()
    assert mim_scripts.scripts_folder() == tmp_path / 'tools'


# ---- python -m tconv_mmaction ----

def test_the_report_names_versions_compat_cuda_and_components(capsys):
    assert doctor.problems() == []
    assert doctor.main() == 0
    text = capsys.readouterr().out
    assert re.search(rf'^tconv_mmaction +{re.escape(tconv_mmaction.__version__)}', text, re.M)
    for name in ('torch', 'mmaction2', 'decord', 'numpy'):
        assert re.search(rf'^{name} +{re.escape(doctor.version_of(name))}$', text, re.M)
    for folder in ('mmengine', 'mmcv', 'cv2'):
        (name, version), *_ = requirements.providers(folder).items()
        assert re.search(rf'^{folder} is from +{name} {re.escape(version)}', text, re.M)
    assert re.search(r'^CUDA +(no \(|CUDA [\d.]+: )', text, re.M)
    count, models = map(int, re.search(r'^registered components +(\d+) \(.*?(\d+) model', text, re.M).groups())
    assert count >= models >= 2
    assert 'mmaction2/issues/2714' in text and 'mmengine/issues/1655' in text and 'Everything fits.' in text


def test_the_commit_of_a_checkout_is_named(capsys):
    if not (ROOT / '.git').exists():
        pytest.skip('not run from a git checkout')
    head = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True).stdout
    doctor.main()
    assert f'(commit {head.strip()}' in capsys.readouterr().out


@pytest.mark.parametrize('requires, what, fix', [
    (['numpy>=99'], r'numpy is [\d.]+, and numpy>=99 is needed', 'pip install "numpy>=99"'),
    (['not-there-at-all>=1', 'also-not; extra == "viz"'], 'not-there-at-all is not installed',
     'pip install "not-there-at-all>=1"')])
def test_what_does_not_fit_is_named_with_the_fix(requires, what, fix, monkeypatch, capsys):
    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: requires)
    (found, command), = doctor.problems()
    assert re.fullmatch(what, found) and command == fix
    assert doctor.main() == 1
    text = capsys.readouterr().out
    assert f'DOES NOT FIT: {found}\n  fix: {fix}' in text and 'Everything fits' not in text


@pytest.mark.parametrize('brings, what, fix', [
    (dict(mmengine={'mmengine': '0.10.7'}, mmcv={'mmcv': '2.1.0', 'mmcv-lite': '2.1.0'}),
     'mmcv 2.1.0 and mmcv-lite 2.1.0 are both installed, bring the same folder mmcv and overwrite each other',
     'pip uninstall -y mmengine mmcv mmcv-lite && pip install "mmcv-lite>=2.1.0,<2.2.0" "mmengine>=0.10.4,<1.0"'),
    (dict(mmengine={'mmengine': '0.10.7', 'onedl-mmengine': '0.10.12'}, mmcv={'onedl-mmcv': '2.3.6'}),
     'mmengine 0.10.7 and onedl-mmengine 0.10.12 are both installed',
     'pip uninstall -y mmengine onedl-mmengine onedl-mmcv && pip install "mmcv-lite'),
    (dict(mmengine={'mmengine': '0.10.1'}, mmcv={'mmcv': '2.1.0'}), 'mmengine is 0.10.1, and mmengine>=0.10.4,<1.0 is',
     'pip install "mmengine>=0.10.4,<1.0"')])
def test_distributions_that_overwrite_each_other_are_found(brings, what, fix, monkeypatch):
    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: [])
    for module in (doctor, requirements):
        monkeypatch.setattr(module, 'providers', lambda folder: brings.get(folder, {}))
    (found, command), = doctor.problems()
    assert what in found and command.startswith(fix)


def test_a_fork_by_itself_fits_and_is_noted(monkeypatch):
    brings = dict(mmengine={'onedl-mmengine': '0.10.12'}, mmcv={'onedl-mmcv': '2.3.6'})
    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: [])
    monkeypatch.setattr(doctor, 'providers', lambda folder: brings.get(folder, {}))
    assert doctor.problems() == [] and [note.split()[0] for note in doctor.notes()] == ['onedl-mmengine', 'onedl-mmcv']


def test_two_releases_of_opencv_that_work_are_a_note_and_no_fault(monkeypatch):
    brings = dict(cv2={'opencv-python': '5.0.0.93', 'opencv-contrib-python': '5.1.0.1'})
    monkeypatch.setattr(doctor.metadata, 'requires', lambda name: [])
    monkeypatch.setattr(doctor, 'providers', lambda folder: brings.get(folder, {}))
    assert doctor.problems() == []
    note, = doctor.notes()
    assert 'opencv-contrib-python 5.1.0.1 all bring cv2' in note and 'works' in note
    monkeypatch.setattr(doctor, 'cv2_fault', lambda: 'a PNG does not come back as it was')
    (found, command), = doctor.problems()
    assert 'does not work (a PNG does not' in found and command.startswith('pip uninstall -y opencv-python')
    assert doctor.notes() == []


@pytest.mark.parametrize('content, message', [
    ("__version__ = '1.7.2'", r'mmaction2 refuses what is installed: MMCV==1\.7\.2.*Run: '),
    ("raise ModuleNotFoundError('no mmcv', name='mmcv')", r'needs mmcv or mmcv-lite.*mmcv-lite>=2\.1.*mim install')])
def test_a_machine_that_does_not_fit_ends_with_the_fix(content, message, tmp_path):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text(content)
    done = run(['python', '-m', 'tconv_mmaction'], tmp_path, check=False)
    assert done.returncode != 0 and re.search(message, done.stderr)


# ---- slurm ----

@pytest.mark.parametrize('script, arguments, expected', [
    ('slurm_train.sh', ['part', 'job', 'my config.py', '--seed', '1'], ['my config.py', '--launcher', 'slurm',
                                                                      '--seed', '1']),
    ('slurm_test.sh', ['part', 'job', 'c.py', 'best one.pth', '--dump', 'd.pkl'],
     ['c.py', 'best one.pth', '--launcher', 'slurm', '--dump', 'd.pkl'])])
def test_slurm_scripts_hand_everything_to_srun(script, arguments, expected, tmp_path):
    fake = tmp_path / 'srun'
    fake.write_text(f'#!{sys.executable}\nimport os, sys\nprint(*sys.argv[1:], os.environ["MASTER_PORT"], sep="\\n")\n')
    fake.chmod(0o755)
    done = run(['bash', OURS / script, *arguments], tmp_path, PATH=f'{tmp_path}{os.pathsep}{os.environ["PATH"]}',
               GPUS='4', SRUN_ARGS='--time=1 --qos=x')
    *words, port = done.stdout.splitlines()
    split = words.index(sys.executable)
    assert words[:split] == ['--partition=part', '--job-name=job', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4',
                             '--cpus-per-task=5', '--kill-on-bad-exit=1', '--time=1', '--qos=x']
    assert words[split + 1] == '-u' and Path(words[split + 2]).samefile(OURS / script.split('_')[1].replace('sh', 'py'))
    assert words[split + 3:] == expected and 20000 <= int(port) < 40000


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_shell_scripts_say_how_they_are_used(script, tmp_path):
    done = run(['bash', OURS / script, 'config.py'], tmp_path, check=False)
    assert done.returncode == 2 and 'usage: ' in done.stderr and 'CONFIG' in done.stderr
