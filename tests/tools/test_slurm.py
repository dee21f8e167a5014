"""tools/slurm_train.sh and slurm_test.sh as jobs: a stand-in for srun starts the tasks as slurm would, on the CPU.

What the scripts hand to srun is in test_cli.py. Here srun gives each task the variables that slurm sets, and ends the
job when one fails if ``--kill-on-bad-exit`` asks for that; scontrol prints the host of a node list.
"""
import os
import re
import signal

import pytest
import torch
from helpers.many_processes import free_port
from helpers.paths import ROOT
from helpers.tiny_project import make_project, run

SRUN = '''#!/usr/bin/env python3
import os, subprocess, sys, time
options = [word for word in sys.argv[1:] if word.startswith('--')][:7]
values = dict(word[2:].split('=', 1) for word in options)
words = sys.argv[1 + len(options):]
with open('srun.txt', 'w') as file:
    file.write('\\n'.join([*options, 'MASTER_PORT=' + os.environ['MASTER_PORT'], *words]))
count, per_node = int(values['ntasks']), int(values['ntasks-per-node'])
tasks = [subprocess.Popen(words, env=dict(os.environ, SLURM_PROCID=str(k), SLURM_NTASKS=str(count),
                                          SLURM_NODELIST='node[1-1]', SLURM_LOCALID=str(k % per_node)))
         for k in range(count)]
while any(task.poll() is None for task in tasks):
    if values['kill-on-bad-exit'] == '1' and any(task.poll() not in (None, 0) for task in tasks):
        for task in tasks:
            task.kill()
    time.sleep(0.05)
sys.exit(max(abs(task.returncode) for task in tasks))
'''
SCONTROL = '#!/bin/sh\n[ "$1 $2 $3" = "show hostname node[1-1]" ] && echo 127.0.0.1\n'
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.device_count() < 2, reason='one GPU: two tasks need two, or none')]


@pytest.fixture(scope='module')
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp('slurm')
    make_project(folder)
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        path = folder / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    search = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return folder, dict(PATH=search, GPUS='2', CPUS_PER_TASK='1', MASTER_PORT=str(free_port()))


def test_two_tasks_train_and_test(job):
    folder, environment = job
    done = run(['bash', ROOT / 'tools/slurm_train.sh', 'part', 'job', 'tiny.py', '--work-dir', 'work', '--seed', '0',
                '--cfg-options', 'train_cfg.max_epochs=2'], folder, **environment)
    assert re.search(r'Epoch\(train\) +\[2\]\[2/2\]', done.stdout)  # 16 clips, batches of 4, two tasks
    words = (folder / 'srun.txt').read_text().splitlines()
    assert words[:7] == ['--partition=part', '--job-name=job', '--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2',
                         '--cpus-per-task=1', '--kill-on-bad-exit=1']
    assert words[7] == f"MASTER_PORT={environment['MASTER_PORT']}"
    ranks = [torch.load(folder / f'work/rank{rank}.pth') for rank in (0, 1)]
    for name, value in ranks[0].items():
        assert torch.isfinite(value).all() and torch.equal(value, ranks[1][name]), name
    both = run(['bash', ROOT / 'tools/slurm_test.sh', 'part', 'job', 'tiny.py', 'work/epoch_2.pth', '--work-dir',
                'test'], folder, **environment)
    assert 'Epoch(test) [2/2]' in both.stdout  # 16 clips, batches of 4, two tasks
    trained = re.findall(r'acc/top1: ([\d.]+)', done.stdout)[-1]
    assert re.findall(r'acc/top1: ([\d.]+)', both.stdout)[-1] == trained


def test_a_killed_task_ends_the_job(job):
    folder, environment = job
    done = run(['bash', ROOT / 'tools/slurm_train.sh', 'part', 'job', 'tiny.py', '--work-dir', 'killed'], folder,
               check=False, KILL_AFTER_ITER='3', **environment)
    assert done.returncode == signal.SIGKILL
    assert (folder / 'killed/epoch_1.pth').is_file() and not (folder / 'killed/epoch_2.pth').exists()
