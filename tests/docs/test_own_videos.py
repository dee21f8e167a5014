"""From a folder of videos to labels, by the commands of README.md and docs/own_videos.md, word for word.

The project folder of a test links to tools/ and configs/, so that the commands run where a reader would run them. Only
the config that they write is made small afterwards: a narrow net, small crops, few epochs.
"""
import contextlib
import io
import json
import os
import pickle
import random
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.resnet2d import WIDTH, random_resnet2d
from helpers.tiny_project import run_here
from helpers.videos import write_film

from tconv_mmaction.layers import Conv3T

SMALL = f'''
_small = dict(num_workers=0, persistent_workers=False)
model['backbone'] = dict(base_channels={WIDTH})
model['cls_head']['in_channels'] = {WIDTH * 8}
train_cfg = dict(max_epochs=EPOCHS)
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader.update(_small)
train_dataloader['batch_size'] = 4
'''
# instead of 16 frames of 112x112 and figures of the temporal parameters; the test of the README keeps those
FAST = '''
for _loader in (train_dataloader, val_dataloader, test_dataloader):
    _loader['dataset']['pipeline'] = [
        dict(type='DecordInit'), dict(type='WholeVideoSampleFrames', clip_len=8), dict(type='DecordDecode'),
        dict(type='Resize', scale=(48, 48), keep_ratio=False), dict(type='FormatShape', input_format='NCTHW'),
        dict(type='PackActionInputs')]
test_pipeline = test_dataloader['dataset']['pipeline']  # what inference_recognizer reads
custom_hooks = [dict(type='CheckInvalidLossHook', interval=5)]
'''


def section(page, title):
    """The text under a heading of level 2, up to the next one."""
    parts = re.split(r'^## (.*)$', (ROOT / page).read_text(), flags=re.M)
    assert title in parts, f'{page} has no section {title!r}'
    return parts[parts.index(title) + 1]


def fences(text):
    """[(language, code)] in the order of the page."""
    return re.findall(r'^```(bash|python)\n(.*?)^```', text, re.M | re.S)


class Project:
    """A folder in which a page's blocks are run."""

    def __init__(self, folder):
        self.folder = folder
        for name in ('tools', 'configs'):
            (folder / name).symlink_to(ROOT / name)

    def bash(self, code):
        """One line with a tool, as the shell would start it, in this process, where everything is imported already."""
        line = re.sub(r'\$\(ls ([^)]+)\)', lambda m: ' '.join(self.matching(m[1])), code.strip())
        assert '\n' not in line and re.match(r'python tools/\S+\.py ', line) and '$' not in line, line
        return run_here(shlex.split(line, comments=True), self.folder).stdout

    def matching(self, pattern):
        paths = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))
        assert paths, f'nothing matches {pattern}'
        return paths

    def python(self, code):
        """In this process, which has imported everything already."""
        printed, here, argv = io.StringIO(), os.getcwd(), sys.argv
        try:
            os.chdir(self.folder)
            with contextlib.redirect_stdout(printed):
                exec(code, {})
        finally:
            os.chdir(here)
            sys.argv = argv
        return printed.getvalue()

    def make_small(self, config, epochs, fast=False, **options):
        """Append to the config; Python's own scoping makes the last assignment count."""
        with open(self.folder / config, 'a') as file:
            file.write(SMALL.replace('EPOCHS', str(epochs)) + FAST * fast)
            file.writelines(f'{key} = {value!r}\n' for key, value in options.items())

    def losses(self, work_dir):
        """Mean training loss of each epoch."""
        path, = (self.folder / work_dir).glob('*/vis_data/scalars.json')
        rows = [row for row in map(json.loads, path.read_text().splitlines()) if 'loss' in row]
        return [np.mean([r['loss'] for r in rows if r['epoch'] == e]) for e in sorted({r['epoch'] for r in rows})]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def write_clip(path, label, rng):
    """A square on noise, 10 to 20 frames of 64x40: yellow and moving right, or cyan and moving left (in BGR)."""
    frames, top = rng.randint(10, 20), rng.randint(8, 20)
    images = []
    for t in range(frames):
        image = np.random.RandomState(rng.randint(0, 9999)).randint(0, 60, (40, 64, 3), dtype='uint8')
        left = round(52 * t / (frames - 1))
        left = 52 - left if label else left
        image[top:top + 12, left:left + 12] = (255, 255, 0) if label else (0, 255, 255)
        images.append(image)
    write_film(path, images)


def make_videos(folder, names):
    rng = random.Random(0)
    for label, name in enumerate(names):
        first = ['some_video.mp4', 'a.mp4', 'b.avi', 'c.avi']
        for file in first + [f'{i}.avi' for i in range(6)]:
            write_clip(folder / name / file, label, rng)


def accuracy(output):
    return float(re.findall(r'acc/top1: ([\d.]+)', output)[-1])


def test_the_readme(project):
    make_videos(project.folder / 'data/my_videos', ['other_class', 'some_class'])
    (_, commands), (_, inference) = fences(section('README.md', 'Your own videos'))
    lists, train, test = commands.strip().split('\n')
    assert 'train.txt 12, val.txt 4, test.txt 4' in project.bash(lists)
    project.make_small('work_dirs/mine.py', 1)
    project.bash(train)
    best, = (project.folder / 'work_dirs/mine').glob('best_acc_top1_epoch_*.pth')

    def named(code):  # "The name of the best checkpoint says its epoch"
        assert 'best_acc_top1_epoch_30.pth' in code
        return code.replace('best_acc_top1_epoch_30.pth', best.name)

    assert 0 <= accuracy(project.bash(named(test))) <= 1
    scores = re.search(r'tensor\(\[([\d., e-]+)\]\)', project.python(named(inference)))
    assert sum(map(float, scores[1].split(','))) == pytest.approx(1, abs=1e-3)


def test_the_walk_through(project):
    """Lists, inflated weights, training, test and labels; and the labels are those that the test counted."""
    make_videos(project.folder / 'data/my_videos', ['point', 'wave'])
    torch.save({k: v.float() for k, v in random_resnet2d(18).items()}, project.folder / 'resnet18-f37072fd.pth')
    (_, lists), = fences(section('docs/own_videos.md', '1. A folder per class'))
    (_, convert), = fences(section('docs/own_videos.md', '2. Start from image weights'))
    (_, commands), (_, inference) = fences(section('docs/own_videos.md', '3. Train, test, label a clip'))
    project.bash(lists)
    project.make_small('work_dirs/mine.py', 4, fast=True, optim_wrapper=dict(optimizer=dict(lr=3e-3)))
    report = project.bash(convert)
    assert '120 tensors of the 2D net loaded, 2 skipped, 68 of the model missing' in report
    train, test = commands.strip().split('\n')
    project.bash(train)
    losses = project.losses('work_dirs/mine')
    assert len(losses) == 4 and losses[-1] < .9 * losses[0]
    best, = (project.folder / 'work_dirs/mine').glob('best_acc_top1_epoch_*.pth')
    output = project.bash(test.replace('tools/test.py', 'tools/test.py --dump scores.pkl', 1))
    with open(project.folder / 'scores.pkl', 'rb') as file:
        tested = pickle.load(file)
    lines = (project.folder / 'data/my_videos/test.txt').read_text().splitlines()
    videos = [line.split()[0] for line in lines]
    assert len(tested) == 4
    assert accuracy(output) == np.mean([s['pred_label'].item() == int(line[-1]) for s, line in zip(tested, lines)])
    names = ['point', 'wave']
    for video, sample in list(zip(videos, tested))[::3]:
        printed = project.python(inference.replace('wave/b.avi', video)).splitlines()[-1]
        name, scores = printed.split(' ', 1)
        assert name == names[sample['pred_label'].item()]
        np.testing.assert_allclose(json.loads(scores), sample['pred_score'].tolist(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_tutorial(project):
    """Every command of the page in a real shell, in its order; only the network, the clips and the epochs are small."""
    make_videos(project.folder / 'data/my_videos', ['point', 'wave'])
    text = (ROOT / 'docs/tutorial.md').read_text()
    blocks = fences(text)
    assert len(blocks) == text.count('```') / 2 == 6
    tconv = f'set -e\ntconv() {{ {shlex.quote(sys.executable)} -m tconv_mmaction "$@"; }}\n'
    for language, code in blocks:
        if language == 'python':
            project.make_small('work_dirs/mine_3t.py', 1, fast=True)
            (project.folder / 'work_dirs/mine_3d.py').write_text(code)
            continue
        done = subprocess.run(['bash', '-c', tconv + code], cwd=project.folder, capture_output=True, text=True,
                              env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
        assert done.returncode == 0, f'{code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}'
    work_dirs = project.folder / 'work_dirs'
    made = [path.relative_to(work_dirs).as_posix() for path in work_dirs.rglob('*')]
    assert {'bad_videos.csv', 'curves/curves.png', 'test_3d/confusion_matrix.png', 'motion/table_2.md',
            'compare/histograms.png', 'compare/summary.json', 'report/index.html'} <= set(made), made


def test_jhmdb(project, shared):
    """The commands of the page on a few real videos; then the trained net labels a Jester clip."""
    source, target = shared / 'data/jhmdb', project.folder / 'data/jhmdb'
    target.mkdir(parents=True)
    (target / 'videos').symlink_to(source / 'videos')
    for part, count in (('train', 4), ('test', 1)):
        lines = (source / f'jhmdb5_{part}_split1.txt').read_text().splitlines()
        few = [line for label in range(5) for line in [x for x in lines if x.endswith(f' {label}')][:count]]
        (target / f'jhmdb5_{part}_split1.txt').write_text('\n'.join(few) + '\n')
    torch.save({k: v.float() for k, v in random_resnet2d(18).items()}, project.folder / 'resnet18-f37072fd.pth')
    (_, config), (_, commands) = fences(section('docs/own_videos.md', 'The same on J-HMDB'))
    assert config.startswith('# work_dirs/jhmdb.py\n')
    (project.folder / 'work_dirs').mkdir()
    (project.folder / 'work_dirs/jhmdb.py').write_text(config)
    project.make_small('work_dirs/jhmdb.py', 2, fast=True, optim_wrapper=dict(optimizer=dict(lr=2e-3)))
    convert, train, test = commands.strip().split('\n')
    project.bash(convert)
    project.bash(train)
    losses = project.losses('work_dirs/jhmdb')
    assert len(losses) == 2 and losses[1] < losses[0]
    output = project.bash(test)
    assert accuracy(output) in [0, .2, .4, .6, .8, 1]
    from mmaction.apis import inference_recognizer, init_recognizer
    model = init_recognizer(str(project.folder / 'work_dirs/jhmdb/jhmdb.py'),
                            str(project.folder / 'work_dirs/jhmdb/epoch_2.pth'), device='cpu')
    first = next(m for m in model.modules() if isinstance(m, Conv3T))
    # the transforms have trained: a filter starts with the same velocity at every step
    assert (first.rotate - first.rotate[:1]).abs().max() > 0 and first.rotate.std() > 0.1
    result = inference_recognizer(model, str(shared / 'data/clips/jester_102653.mp4'))
    assert result.pred_score.sum().item() == pytest.approx(1, abs=1e-5)
    assert result.pred_label.item() == result.pred_score.argmax().item()


def write_motion(path, kind, rng):
    """A square of any colour on noise, 12 frames of 56x56, whose class is its motion alone; mirrored it is the same."""
    colour, side, x, y = rng.integers(120, 255, 3), rng.uniform(5, 7), *rng.uniform(22, 34, 2)
    rows, columns = np.mgrid[:56, :56]
    images = rng.integers(0, 60, (12, 56, 56, 3), dtype='uint8')
    for image, position in zip(images, np.linspace(-1, 1, 12) * (-1 if kind in ('rise', 'shrink') else 1)):
        top, half = (28 + 15 * position, side + 2) if kind in ('fall', 'rise') else (y, 9 + 6 * position)
        image[(abs(rows - top) <= half) & (abs(columns - x) <= half)] = colour
    write_film(path, images)


def test_the_recipe_learns_motion(project):
    """What the page says to do with a folder, with a narrow net and small clips: 3T must tell motions apart."""
    rng = np.random.default_rng(0)
    for kind in ('fall', 'rise', 'grow', 'shrink'):
        for index in range(35):
            write_motion(project.folder / 'data/my_videos' / kind / f'{index}.avi', kind, rng)
    (_, lists), = fences(section('docs/own_videos.md', '1. A folder per class'))
    (_, commands), _ = fences(section('docs/own_videos.md', '3. Train, test, label a clip'))
    printed = project.bash(lists.strip() + ' --model 3t --frames 8 --size 32')
    assert 'every slice of every temporal kernel sees frames of a clip of 8' in printed
    project.make_small('work_dirs/mine.py', 12)
    with open(project.folder / 'work_dirs/mine.py', 'a') as file:
        file.write("train_dataloader['batch_size'] = 8\ncustom_hooks = []\n")
    train, test = commands.strip().split('\n')
    project.bash(train.replace('load_from=work_dirs/resnet18-3t.pth', 'train_cfg.val_interval=4'))  # from scratch
    assert accuracy(project.bash(test)) >= 0.9
