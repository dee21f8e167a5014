"""Two small networks and ten drawn films, and tools/analysis/compare_models.py over them."""
import contextlib
import io
import os
import subprocess
import sys

import pytest
import torch
from mmaction.registry import MODELS
from mmengine.config import Config

from helpers.paths import ROOT
from helpers.scripts import load_script

TOOL = ROOT / 'tools/analysis/compare_models.py'

COMPONENTS = '''
import os
import signal
from pathlib import Path

import numpy as np
import torch
from mmaction.registry import DATASETS
from mmaction.structures import ActionDataSample
from mmengine.dataset import BaseDataset


@DATASETS.register_module()
class ComparedClips(BaseDataset):
    """Ten films of a square that moves right (class 0) or down (class 1); clip 6 is broken. Notes what is read."""

    def __init__(self, tag, **kwargs):
        self.tag = tag
        super().__init__(**kwargs)

    def load_data_list(self):
        return [dict(label=index % 2, filename=f'films/film{index}.avi') for index in range(10)]

    def __getitem__(self, index):
        note = Path(os.environ['READ_NOTES'])
        with open(note, 'a') as file:
            file.write(f'{self.tag}{index}\\n')
        if f'{self.tag}{index}' == os.environ.get('KILL_AT') not in note.read_text().split()[:-1]:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 6:
            raise RuntimeError('[film6.avi] cannot decode frame 3')
        clip = np.random.RandomState(index).randint(0, 60, (3, 12, 32, 32), dtype='uint8')
        for t in range(12):
            rows, columns = (slice(8, 16), slice(2 * t, 2 * t + 8))[::1 if index % 2 == 0 else -1]
            clip[:, t, rows, columns] = 255
        sample = ActionDataSample()
        sample.set_gt_label(index % 2)
        return dict(inputs=torch.from_numpy(clip)[None], data_samples=sample)
'''
CONFIG = '''
custom_imports = dict(imports=['tconv_mmaction', 'compared_components'], allow_failed_imports=False)
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict({backbone}),
    cls_head=dict({head}, num_classes=2, average_clips='prob'),
    data_preprocessor=dict(type='ActionDataPreprocessor', mean=[60.] * 3, std=[60.] * 3, format_shape='NCTHW'))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type='ComparedClips', tag='{tag}', test_mode=True),
                       sampler=dict(type='DefaultSampler', shuffle=False))
'''
NETWORKS = dict(
    lenet=dict(tag='a', backbone="type='LeNet5', temporal_cfg=dict(type='Conv3T'), in_channels=3, channels=(4, 6), "
               "clip_shape=(12, 32, 32)", head="type='I3DHead', in_channels=84, dropout_ratio=0., init_std=2."),
    clstm=dict(tag='b', backbone="type='ConvLSTMNet', num_layers=2, hidden_channels=4, kernel_size=3, stride=1",
               head="type='SequenceHead', in_channels=4, clip_len=12, feature_size=(8, 8)"))
OPTIONS = ['--iterations', '12', '--chunk-size', '2', '--names', 'LeNet-3T', 'C-LSTM', '--device', 'cpu']


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
    """Configs, components and checkpoints of the two networks."""
    folder = tmp_path_factory.mktemp('compared')
    (folder / 'compared_components.py').write_text(COMPONENTS)
    for name, parts in NETWORKS.items():
        (folder / f'{name}.py').write_text(CONFIG.format(**parts))
        torch.manual_seed(3)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(folder))
            model = MODELS.build(Config.fromfile(folder / f'{name}.py').model)
        model.init_weights()
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    return folder


def models_of(project):
    return [str(project / name) for name in ('lenet.py', 'lenet.pth', 'clstm.py', 'clstm.pth')]


def command(project, out, *options, models=None):
    return [str(word) for word in (*(models or models_of(project)), '--out', out, *OPTIONS, *options)]


def run_elsewhere(project, out, *options, processes=1, **environment):
    """The tool in processes of its own."""
    launch = [sys.executable]
    if processes > 1:
        launch += ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
        options = [*options, '--launcher', 'pytorch']
    search_path = os.pathsep.join(filter(None, [str(project), os.environ.get('PYTHONPATH')]))
    env = dict(os.environ, PYTHONPATH=search_path, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
               READ_NOTES=f'{out}.notes', **environment)
    return subprocess.run([*launch, str(TOOL), *command(project, out, *options)], env=env, capture_output=True,
                          text=True, timeout=300)


def run(project, out, *options, models=None):
    """The tool in this process, with one thread as in the others."""
    tool = load_script('tools/analysis/compare_models.py')
    threads, stdout, stderr = torch.get_num_threads(), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        patch.syspath_prepend(str(project))
        patch.setenv('READ_NOTES', f'{out}.notes')
        torch.set_num_threads(1)
        try:
            code = tool.main(command(project, out, *options, models=models))
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess([], code, stdout.getvalue(), stderr.getvalue())


@pytest.fixture(scope='module')
def compared_once(compared, tmp_path_factory):
    """One uninterrupted run in one process."""
    out = tmp_path_factory.mktemp('one') / 'out'
    return out, run(compared, out)


def result(out):
    return {name: (out / name).read_bytes() for name in ('samples.csv', 'blobs.csv', 'summary.json', 'tables.md')}
