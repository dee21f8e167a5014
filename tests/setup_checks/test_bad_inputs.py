"""Wrong configs and data lists: each is named by its key or line, with the value and the way out, before a start.

``PYTHONPATH=tests python tests/setup_checks/test_bad_inputs.py`` prints the table of docs/reliability/mistakes.md;
a test holds the two together.
"""
import argparse
import copy
import re
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.bad_setups import CASES, CONFIG, FRAMES, TRAIN_LIST, VAL_LIST, D, H
from helpers.paths import ROOT
from mmaction.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.runner import Runner

from tconv_mmaction import setup_checks
from tconv_mmaction.cli.main import run_script
from tconv_mmaction.setup_checks import SetupError, check_config
from tconv_mmaction.utils.confinement import ConfinementError

PAGE = ROOT / 'docs/reliability/mistakes.md'

@pytest.fixture(scope='module')
def template(tmp_path_factory):
    return make_template(tmp_path_factory.mktemp('bad') / 'data')


def film(path, width, height, frames=20):
    """A small video that decord reads."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (width, height))
    for i in range(frames):
        writer.write(np.full((height, width, 3), 10 * i, dtype=np.uint8))
    writer.release()


def make_template(folder):
    """Fill the folder that the config without a mistake is for."""
    (folder / 'videos').mkdir(parents=True)
    film(folder / 'videos/a.mp4', 40, 32)
    film(folder / 'videos/tall.mp4', 32, 40)
    whole = (folder / 'videos/a.mp4').read_bytes()
    for name in 'bcdefg':
        (folder / f'videos/{name}.mp4').write_bytes(whole)
    (folder / 'videos/page.mp4').write_text('<html>404: there is no such video</html>')
    (folder / 'videos/cut.mp4').write_bytes(whole[:300])
    image = cv2.imencode('.jpg', np.zeros((32, 40, 3), dtype=np.uint8))[1].tobytes()
    for name, first in (('a', 1), ('b', 1), ('c', 1), ('d', 1), ('from0', 0)):
        (folder / 'frames' / name).mkdir(parents=True)
        for number in range(first, first + 30):
            (folder / f'frames/{name}/img_{number:05}.jpg').write_bytes(image)
    (folder / 'frames/bare').mkdir()
    (folder.parent / 'outside.mp4').write_bytes(b'film')
    (folder / 'videos/link.mp4').symlink_to(folder.parent / 'outside.mp4')
    (folder / 'videos/empty.mp4').touch()
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    init_default_scope('mmaction')
    config = Config.fromstring(CONFIG.replace('{folder}', folder.as_posix()), '.py')
    state = MODELS.build(config.model).state_dict()
    wide = copy.deepcopy(config.model)
    wide.backbone.channels = (5, 4)
    torch.save(dict(state_dict=state), folder / 'weights.pth')
    torch.save(dict(state_dict=MODELS.build(wide).state_dict()), folder / 'wide.pth')
    torch.save(dict(state_dict={'layer9.weight': torch.ones(2)}), folder / 'other.pth')
    torch.save(dict(state_dict={k: v for k, v in state.items() if 'backbone' in k}), folder / 'headless.pth')
    torch.save(dict(state_dict={}), folder / 'empty.pth')
    (folder / 'cut.pth').write_bytes((folder / 'weights.pth').read_bytes()[:2000])
    return folder


@pytest.fixture
def project(template):
    """The folder, with its own lists."""
    write(template, {'train.txt': TRAIN_LIST, 'val.txt': VAL_LIST, 'frames.txt': 'a 30 0\nb 30 1\n'})
    return template


def write(folder, files):
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).write_text(content.replace('{folder}', folder.as_posix()))


def filled(value, folder):
    if isinstance(value, str):
        return value.replace('{folder}', folder.as_posix())
    if isinstance(value, dict):
        return {key: filled(item, folder) for key, item in value.items()}
    return type(value)(filled(item, folder) for item in value) if isinstance(value, (list, tuple)) else value


def replace(cfg, dotted, value):
    """Set a key as --cfg-options does; a dict with _delete_ takes the place of what is there."""
    *parents, last = dotted.split('.')
    for name in parents:
        cfg = cfg[int(name)] if isinstance(cfg, list) else cfg[name]
    if isinstance(value, dict) and value.get('_delete_'):
        value = {key: item for key, item in value.items() if key != '_delete_'}
    cfg[int(last) if isinstance(cfg, list) else last] = value


def config_of(folder, change=None):
    text = CONFIG.replace('{folder}', folder.as_posix())
    cfg = Config.fromstring(text, '.py')
    raw = cfg._cfg_dict.to_dict()
    for name in ('pipeline', 'loader'):
        raw.pop(name, None)
    raw = copy.deepcopy(raw)
    steps = {}
    for dotted, value in (change or {}).items():
        match = re.fullmatch(r'(.*pipeline\.\d+)\.(\w+)', dotted)
        if match and match[2] == '_delete_':
            replace(raw, match[1], {})
        else:
            steps[dotted] = value
    for dotted, value in steps.items():
        replace(raw, dotted, filled(value, folder))
    return Config(raw)


def problems_of(folder, case):
    """What is found: the mistakes, or for a case that only runs the wrong way the warnings."""
    write(folder, case.files)
    cfg = config_of(folder, dict(sorted(case.change.items(), key=lambda item: not item[0].endswith('_delete_'))))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
        patch.setattr(torch.cuda, 'is_available', lambda: case.gpu)
        for name, value in case.environ.items():
            patch.setenv(name, value)
        for name in case.absent:
            patch.setitem(sys.modules, name, None)
        if case.warning:
            return check_config(cfg, case.mode, **setup_checks.options_in(cfg)).warnings
        with pytest.raises(SetupError) as caught:
            check_config(cfg, case.mode, **setup_checks.options_in(cfg))
    return caught.value.problems


def test_the_config_itself_has_no_mistake(project):
    for mode in ('train', 'val', 'test'):
        found = check_config(config_of(project), mode)
        assert found.notes == [] and found.warnings == []
    found = check_config(config_of(project, FRAMES))
    assert found.notes == [] and [warning.key for warning in found.warnings] == [
        'val_dataloader.dataset.ann_file']  # two of its three classes are in the folders


@pytest.mark.parametrize('case', CASES, ids=[case.name for case in CASES])
def test_it_is_named_with_its_key_value_and_way_out(project, case):
    found = problems_of(project, case)
    assert {problem.key for problem in found} == {case.key}, found
    for words in case.says:
        words = words.replace('{folder}', project.as_posix())
        assert any(words in problem.text for problem in found), found
    for problem in found:
        assert f'{problem.key}: {problem.text}' in str(SetupError(found))
        assert len(problem.text.rstrip('.').split()) > 3 and 'Traceback' not in problem.text


# ---- the hook, and the tools ----

def test_the_table_in_the_docs_is_this_one():
    assert table() in PAGE.read_text(encoding='utf-8'), 'python tests/test_bad_inputs.py prints the table anew'
    assert len(CASES) >= 160 and len({case.name for case in CASES}) == len(CASES)
    assert table() in PAGE.read_text(encoding='utf-8'), f'python {__file__} prints the table anew'
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)


def test_all_mistakes_are_named_at_once(project):
    write(project, {'train.txt': 'a.mp4 7\n\nb.mp4 x\n'})
    cfg = config_of(project, {'optim_wrapper.optimizer.lr': -1, f'{H}.in_channels': 3, 'train_cfg.max_epochs': 0})
    with pytest.raises(SetupError) as caught:
        check_config(cfg)
    assert str(caught.value).startswith('6 problems in the config or its files; nothing was started.\n  1. train_')
    assert sorted({problem.key for problem in caught.value.problems}) == [
        f'{H}.in_channels', 'optim_wrapper.optimizer.lr', 'train_cfg.max_epochs', f'{D}.ann_file']


def test_only_the_first_lines_of_a_kind_are_shown(project):
    write(project, {'train.txt': ''.join(f'a.mp4 {label}\n' for label in range(3, 20))})
    with pytest.raises(SetupError) as caught:
        check_config(config_of(project), duplicates=True)
    text, = (problem.text for problem in caught.value.problems if 'num_classes' in problem.text)
    assert 'line 5: label 7; and 12 more lines' in text and 'line 6' not in text


@pytest.mark.parametrize('name', ['label as large as the number of classes', 'negative label',
                                  'custom_keys that name no parameter', 'temporal kernel longer than the clip'])
def test_the_hook_stops_a_training_that_no_tool_has_checked(project, name):
    case, = (case for case in CASES if case.name == name)
    write(project, case.files)
    runner = Runner.from_cfg(config_of(project, case.change))
    with pytest.raises(SetupError) as caught:
        runner.train()
    assert [problem.key for problem in caught.value.problems] == [case.key] and runner.iter == 0
    assert list((project / 'work').rglob('*.pth')) == []


def test_the_hook_does_nothing_twice(project, monkeypatch):
    cfg = config_of(project)
    setup_checks.check_once(cfg, 'train')
    assert setup_checks.take_passed(cfg, 'test') is None  # another mode
    setup_checks.check_once(cfg, 'train')
    assert setup_checks.take_passed(cfg, 'train') == [] and setup_checks.take_passed(cfg, 'train') is None
    write(project, {'train.txt': ''})
    cfg.default_hooks['check_setup'] = None  # switched off
    setup_checks.check_once(cfg, 'train')
    assert setup_checks.take_passed(cfg, 'train') is None


def test_a_data_set_that_bears_bad_videos_may_have_some(project):
    write(project, {'train.txt': 'empty.mp4 0\nnothing.mp4 1\na.mp4 2\n'})
    change = {f'{D}.type': 'TolerantVideoDataset'}
    check_config(config_of(project, change))
    check_config(config_of(project, {**change, f'{D}.test_mode': True, f'{D}.unreadable_in_test': 'wrong'}))
    for wrong, words in (({**change, f'{D}.test_mode': True}, 'nothing.mp4'), (change, '3 of the 3')):
        with pytest.raises(SetupError, match=words):
            check_config(config_of(project, wrong))
        write(project, {'train.txt': 'x.mp4 0\ny.mp4 1\nz.mp4 2\n'})


def test_the_check_draws_no_random_number_and_leaves_the_config_alone(project):
    cfg = config_of(project)
    before, state = repr(cfg), torch.get_rng_state()
    check_config(cfg)
    assert repr(cfg) == before and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('script, arguments, words', [
    ('train.py', [], 'line 2: label 3'), ('test.py', ['none.pth'], 'load_from: none.pth is not there')])
def test_the_tools_say_it_in_one_message(project, tmp_path, capsys, script, arguments, words):
    write(project, {'train.txt': 'a.mp4 0\nb.mp4 3\n'})
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.replace('{folder}', project.as_posix()))
    assert run_script(script, [str(path), *arguments, '--work-dir', str(tmp_path / 'work')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('SetupError: 1 problem in the config or its files; nothing was started.\n  1. ')
    assert words in error and 'Traceback' not in error and not (tmp_path / 'work').exists()


# ---- paths that leave the data root ----

def built_training(cfg):
    """A Runner at the moment after the hooks have seen it."""
    runner = Runner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    return runner._train_loop.dataloader.dataset


def test_a_video_that_becomes_a_link_out_of_the_root_is_not_opened(project):
    write(project, {'train.txt': 'a.mp4 0\nswapped.mp4 1\n'})
    path = project / 'videos/swapped.mp4'
    path.write_bytes((project / 'videos/a.mp4').read_bytes())
    try:
        dataset = built_training(config_of(project, {'default_hooks.check_setup.confine_paths': True}))
        assert [type(step).__name__ for step in dataset.pipeline.transforms[:2]] == ['ConfinePaths', 'DecordInit']
        path.unlink()
        path.symlink_to(project.parent / 'outside.mp4')
        with pytest.raises(ConfinementError, match=r'swapped.mp4 leads to .*outside.mp4, which is outside of .*data\.'):
            dataset[1]
    finally:
        path.unlink()


def test_a_frame_that_is_a_link_out_of_the_root_is_not_opened(project):
    frame = project / 'frames/d/img_00001.jpg'
    frame.unlink()
    frame.symlink_to(project.parent / 'outside.mp4')
    write(project, {'frames.txt': 'd 1 0\n'})
    try:
        dataset = built_training(config_of(project, {**FRAMES, 'default_hooks.check_setup.confine_paths': True}))
        with pytest.raises(ConfinementError, match=r'img_00001.jpg leads to .*outside.mp4'):
            dataset[0]
    finally:
        frame.unlink()
        frame.write_bytes(b'film')


def test_confined_paths_in_allowed_folders_are_opened(project, tmp_path):
    guard = TRANSFORMS.build(dict(type='ConfinePaths', roots=[str(project), str(project.parent)]))
    sample = dict(filename=str(project / 'videos/link.mp4'))
    assert guard.transform(sample) is sample and str(project) in repr(guard)
    near = project.parent / (project.name + '-other')  # the name starts like the root's
    near.mkdir(exist_ok=True)
    strict = TRANSFORMS.build(dict(type='ConfinePaths', roots=str(project)))
    for path in (near / 'x.mp4', project / 'videos/../../outside.mp4', project / '../data-other/x'):
        with pytest.raises(ConfinementError, match='outside of'):
            strict.transform(dict(filename=str(path)))
    assert strict.transform(dict(filename=str(project / 'videos/../videos/a.mp4')))
    with pytest.raises(ValueError, match='there is no folder'):
        TRANSFORMS.build(dict(type='ConfinePaths', roots='no/such'))
    with pytest.raises(ValueError, match='neither filename nor frame_dir'):
        strict.transform(dict(total_frames=3))


# ---- the table ----

def table():
    """Markdown: what is wrong, where the message says it is, and words of it."""
    lines = ['| mistake | named as | the message holds |', '|---|---|---|']
    for case in CASES:
        words = ' ... '.join(case.says).replace('|', '\\|').replace('{folder}', 'DATA')
        lines.append(f'| {case.name}{" (warning)" * case.warning} | `{case.key}` | {words} |')
    return '\n'.join(lines)


def main(arguments):
    """Print the table, or with --times how much CPU time each case takes until it is named."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--times', type=Path, metavar='FOLDER', help='a new folder for lists and files')
    times_in = parser.parse_args(arguments).times
    if times_in is None:
        return print(table())
    folder = make_template(times_in.absolute())
    times = []
    for case in [*CASES, *CASES]:  # the first round loads what PyTorch loads once
        write(folder, {'train.txt': TRAIN_LIST, 'val.txt': VAL_LIST, 'frames.txt': 'a 30 0\nb 30 1\n'})
        start = time.process_time()
        problems_of(folder, case)
        times.append((time.process_time() - start, case.name))
    for title, part in (('first', times[:len(CASES)]), ('second', times[len(CASES):])):
        print(f'{title} round: {len(part)} cases, slowest {max(part)[0]:.2f} s of CPU ({max(part)[1]}), median '
              f'{sorted(part)[len(part) // 2][0]:.3f} s')


if __name__ == '__main__':
    main(sys.argv[1:])
