"""Configs and options that cannot be read: one message, from train.py and test.py and from the tools of our own."""
import shlex

import pytest
from helpers.paths import ROOT
from helpers.tiny_project import run_here

from tconv_mmaction.cli.main import run_script
from tconv_mmaction.utils.config_file import ConfigError, read_config

CONFIG = ROOT / 'configs/recognition/lenet5/lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist.py'
FILES = {
    'open.py': ('model = dict(\n', ['open.py is no Python', 'line 1']),
    'name.py': ('model = dict(depth=deep)\n', ['NameError', "'deep'"]),
    'base.py': ("_base_ = 'no_base.py'\n", ['_base_', 'no_base.py is not there', 'copy the bases']),
    'module.py': ("custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)\n",
                  ['no_such_module', 'PYTHONPATH']),
    'comma.json': ('{"model": ', ['comma.json cannot be read', 'JSONDecodeError']),
    'config.txt': ('model = dict()\n', ['no config by its ending', '.yaml']),
    'nothing.py': (None, ['nothing.py is not there', 'Relative paths count from']),
    'folder.py': (..., ['folder.py is a folder'])}


@pytest.fixture
def written(tmp_path):
    for name, (content, _) in FILES.items():
        if content is ...:
            (tmp_path / name).mkdir()
        elif content is not None:
            (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize('name', FILES)
def test_reading(name, written):
    with pytest.raises(ConfigError) as caught:
        read_config(written / name)
    assert all(words in str(caught.value) for words in FILES[name][1]), str(caught.value)
    assert str(caught.value).endswith('.')


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('script', ['train.py', 'test.py'])
def test_the_scripts_say_it_in_one_message(script, name, written, capsys):
    arguments = [str(written / name), *(['none.pth'] if script == 'test.py' else [])]
    assert run_script(script, [*arguments, '--work-dir', str(written / 'work')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('SetupError: 1 problem in the config or its files; nothing was started.\n  1. config: ')
    assert all(words in error for words in FILES[name][1]) and 'Traceback' not in error
    assert not (written / 'work').exists()


@pytest.mark.parametrize('option, words', [
    ('model.backbone.channels.7=3', ['channels', 'dotted keys', '(1,2)']),
    ('train_cfg.max_epochs.x=3', ['max_epochs', 'does not fit the config']),
    ('train_cfg.max_epoch=3', ["no argument 'max_epoch'", "'max_epochs'"]),
    ('model.backbone.clip_shap=3', ["has no 'clip_shap' there", "'clip_shape'"])])
def test_options_that_do_not_fit(option, words, tmp_path, capsys):
    assert run_script('train.py', [str(CONFIG), '--work-dir', str(tmp_path / 'work'), '--cfg-options', option]) == 1
    error = capsys.readouterr().err
    assert all(word in error for word in words) and 'Traceback' not in error, error


def test_an_option_without_a_sign(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_script('train.py', [str(CONFIG), '--work-dir', str(tmp_path), '--cfg-options', 'train_cfg.max_epochs', '='])
    assert '\'train_cfg.max_epochs\' has no "="' in capsys.readouterr().err


TOOLS = ['deploy/reparameterize_model.py CONFIG CHECKPOINT OUT.pth', 'deploy/export_onnx.py CONFIG CHECKPOINT OUT.onnx',
         'analysis/temporal_params.py CONFIG CHECKPOINT --out OUT',
         'analysis/temporal_filters.py CONFIG CHECKPOINT --out OUT',
         'analysis/receptive_field.py CONFIG CHECKPOINT --out OUT',
         *(f'analysis/{name}.py CONFIG CHECKPOINT VIDEO.mp4 --out OUT.mp4'
           for name in ('grad_cam', 'saliency', 'temporal_masks', 'class_channels', 'report'))]


@pytest.mark.parametrize('command', TOOLS, ids=lambda command: command.split()[0])
@pytest.mark.parametrize('config, words', [
    ('open.py', 'open.py is no Python'), ('nothing.py', 'nothing.py is not there'), (CONFIG, 'none.pth')],
    ids=['syntax', 'config', 'checkpoint'])
def test_tools_say_it_in_one_message(command, config, words, written, monkeypatch):
    monkeypatch.chdir(written)
    tool, *arguments = [str(config) if part == 'CONFIG' else 'none.pth' if part == 'CHECKPOINT' else part
                        for part in shlex.split(command)]
    done = run_here(['python', ROOT / 'tools' / tool, *arguments], written, check=False)
    assert done.returncode == 2 and words in done.stderr and 'Traceback' not in done.stderr, done.stderr


def test_printed_commands_can_be_pasted(tmp_path):
    """A folder with a blank in its name."""
    videos = tmp_path / 'my videos'
    for name in ('run', 'walk'):
        (videos / name).mkdir(parents=True)
        for i in range(3):
            (videos / name / f'{i}.mp4').write_bytes(b'film')
    done = run_here(['python', ROOT / 'tools/data/class_folders.py', videos, '--config', tmp_path / 'my config.py',
                     '--delimiter', ','], tmp_path)
    command, = (line.split('train with: ')[1] for line in done.stdout.splitlines() if 'train with' in line)
    assert shlex.split(command) == ['python', 'tools/train.py', 'my config.py']  # relative to where it was called
