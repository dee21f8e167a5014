"""The command ``tconv``: its names, its help, what it finds of the shipped files; and our models by name."""
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT
from mmengine.config import Config

from tconv_mmaction.cli import demo, main
from tconv_mmaction.compat import model_index
from tconv_mmaction.utils import mim_folder

CONFIG = 'lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist'
FILE = ROOT / f'configs/recognition/lenet5/{CONFIG}.py'


@pytest.fixture
def filled():
    """The links that an editable install makes; a checkout that is only on the search path has none."""
    folder = ROOT / 'tconv_mmaction/.mim'
    if not folder.exists():
        mim_folder.fill(ROOT, folder, link=True)
    return folder


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_help_names_every_command_in_a_line(capsys):
    assert main.main(['--help']) == 0
    text = capsys.readouterr().out
    commands = dict(re.findall(r'^  ([a-z0-9-]+) {2,}(\S.*)$', text, re.M))
    assert set(commands) == {*main.available(), *main.OWN}
    assert {'train', 'test', 'report', 'grad-cam', 'masks', 'params', 'filters', 'field', 'saliency', 'compare',
            'publish', 'inflate', 'export', 'check-videos', 'class-folders', 'demo', 'doctor', 'run'} <= set(commands)
    assert all(len(summary) > 20 for summary in commands.values())


@pytest.mark.parametrize('name', [*main.available(), *main.OWN])
def test_every_command_has_a_help_under_its_own_name(name, capsys, empty):
    try:
        status = main.main([name, '--help'])
    except SystemExit as end:  # argparse
        status = end.code
    text = capsys.readouterr().out
    assert status == 0
    assert text.startswith('usage: ') and (f'tconv {name}' in text or name in ('train', 'test')), text[:200]


def test_a_mistyped_command_is_answered_with_the_nearest(capsys):
    assert main.main(['gradcam']) == 2
    assert "no command 'gradcam'. Did you mean grad-cam" in capsys.readouterr().err


@pytest.mark.parametrize('name, expected', [
    (CONFIG, FILE), (f'{CONFIG}.py', FILE), (f'configs/recognition/lenet5/{CONFIG}.py', FILE),
    (f'tconv_mmaction::recognition/lenet5/{CONFIG}.py', FILE),
    ('zoo/lenet5-3t_video-mnist-553009ef.pth', ROOT / 'zoo/lenet5-3t_video-mnist-553009ef.pth'),
    ('not-there', None), ('configs', None), ('../setup.py', None), ('folder/' + CONFIG, None), ('', None)])
def test_shipped_files_by_name_and_by_path(name, expected, empty):
    found = mim_folder.find_shipped(name)
    assert found is None if expected is None else found.samefile(expected)


def test_a_file_of_the_users_own_comes_first(empty):
    (empty / f'{CONFIG}.py').write_text('')
    words = [f'{CONFIG}.py', CONFIG, '--out-dir', 'zoo', '-x']
    found = main.with_shipped_files(words)
    assert found[0] == words[0] and Path(found[1]).samefile(FILE) and found[2:] == words[2:]


def test_names_of_configs_are_unique():
    paths = [path for path in (ROOT / 'configs').glob('recognition/*/*.py') if not path.name.startswith('_')]
    assert len({path.stem for path in paths}) == len(paths) == len(mim_folder.shipped_configs())


@pytest.mark.parametrize('link', [True, False])
def test_links_and_copies_hold_the_same(link, tmp_path):
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/old.py').touch()  # of an earlier install
    mim_folder.fill(ROOT, tmp_path, link)
    assert (tmp_path / 'configs').is_symlink() == link and not (tmp_path / 'configs/old.py').exists()
    for name in (f'configs/recognition/lenet5/{CONFIG}.py', 'tools/train.py', 'model-index.yml', 'zoo/results.yml'):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    mim_folder.fill(ROOT, tmp_path, link)  # a second install


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(mim_folder, 'PACKAGE', tmp_path / 'tconv_mmaction')
    with pytest.raises(FileNotFoundError, match='are neither in .*mim nor in .*Install it again: pip install'):
        mim_folder.mim_folder()


def test_a_config_of_ours_is_a_base_and_is_got_by_name(filled, empty):
    from mmengine.hub import get_config
    name = f'tconv_mmaction::recognition/lenet5/{CONFIG}.py'
    (empty / 'mine.py').write_text(f"_base_ = '{name}'\ntrain_cfg = dict(max_epochs=3)\n")
    config, base = Config.fromfile('mine.py'), Config.fromfile(FILE)
    assert config.model == base.model and config.train_cfg.max_epochs == 3
    assert get_config(name).model == base.model


def test_our_models_by_name():
    models = model_index.models()
    model = models['lenet5-3t_video-mnist']
    assert model['Name'] == CONFIG and model['Weights'].startswith('zoo/lenet5-3t_video-mnist-')
    assert models[CONFIG.lower()] is model and {entry['Name'] for entry in models.values()} == set(
        mim_folder.shipped_configs())


def test_an_inferencer_by_the_name_of_our_model(empty):
    import torch
    from mmaction.apis import MMAction2Inferencer
    inferencer = MMAction2Inferencer(rec='lenet5-3t_video-mnist').actionrecog_inferencer
    published = torch.load(ROOT / 'zoo/lenet5-3t_video-mnist-553009ef.pth')['state_dict']
    state = inferencer.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in published.items())
    with pytest.raises(ValueError, match='is a config that was not trained.*lenet5-3t_video-mnist.*rec_weights'):
        MMAction2Inferencer(rec='resnet18-3t_scratch_1xb8-16x1x1-30e_folder-rgb')


def test_the_demo_says_which_step_failed(empty, capsys, monkeypatch):
    def fail(command, check):
        raise subprocess.CalledProcessError(3, command)

    monkeypatch.setattr(subprocess, 'run', fail)
    assert demo.command(['--out-dir', 'out']) == 1
    printed = capsys.readouterr()
    assert f'$ tconv train {CONFIG}' in printed.out and 'ended with 3' in printed.err
    with pytest.raises(SystemExit):
        demo.command(['--epochs', '0'])
    with pytest.raises(FileNotFoundError, match='no best_'):
        demo.newest(empty, 'best_*.pth')


def test_completion_names_every_command(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    assert main.main(['completion', 'bash']) == 1 and 'pip install shtab' in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip('shtab')
    assert main.main(['completion', 'bash']) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in main.available())
    assert subprocess.run(['bash', '-n'], input=script, text=True, capture_output=True).returncode == 0
