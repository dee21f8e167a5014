"""The wheel is the whole product: installed into an empty environment, it does everything from an empty folder."""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest
from helpers.paths import ROOT

CONFIG = 'lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist'
WEIGHTS = 'zoo/lenet5-3t_video-mnist-553009ef.pth'
IGNORED = shutil.ignore_patterns('.git', '.venv', 'build', '*.egg-info', '.mim', 'work_dirs', '__pycache__', 'site')


def call(command, folder, **environment):
    """Run a command there, without the checkout on the search path; its output."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, timeout=1800,
                          env=dict(env, OMP_NUM_THREADS='1', **environment))
    assert done.returncode == 0, f'{command}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}'
    return done.stdout


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the checkout: building writes into the folder it builds from."""
    folder = tmp_path_factory.mktemp('source') / 'tconv'
    shutil.copytree(ROOT, folder, ignore=IGNORED)
    return folder


@pytest.fixture(scope='module')
def wheel(source):
    call([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', 'made', '.'], source)
    made, = (source / 'made').glob('*.whl')
    return made


def install(python, *what):
    """With the pip of the tests, into the environment of ``python``; False where the index does not give it."""
    command = [sys.executable, '-m', 'pip', '--python', str(python), 'install', '-q', *map(str, what)]
    return not subprocess.run(command, capture_output=True, timeout=1800).returncode


def new_environment(wheel, folder):
    """The folder of programs of an environment with the wheel; what it needs is borrowed from that of the tests."""
    call([sys.executable, '-m', 'venv', '--without-pip', folder], folder.parent)
    programs = folder / ('Scripts' if os.name == 'nt' else 'bin')
    python = programs / 'python'
    place = call([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], folder).strip()
    # a path file there adds the packages of the tests, and not the path files among them: no editable install
    with open(os.path.join(place, 'borrowed.pth'), 'w') as file:
        file.write('\n'.join(dict.fromkeys(sysconfig.get_path(kind) for kind in ('purelib', 'platlib'))))
    assert install(python, '--no-deps', '--force-reinstall', wheel)
    return programs


@pytest.fixture(scope='module')
def environment(wheel, tmp_path_factory):
    return new_environment(wheel, tmp_path_factory.mktemp('environment'))


@pytest.fixture(scope='module')
def archive(source):
    call([sys.executable, 'setup.py', '-q', 'sdist', '-d', 'made'], source)
    made, = (source / 'made').glob('*.tar.gz')
    return made


@pytest.mark.slow
def test_what_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = [('configs', '.py'), ('configs', '.yml'), ('tools', '.py'), ('tools', '.sh'), ('zoo', '.pth')]
    for folder, ending in kinds:
        for path in (ROOT / folder).rglob(f'*{ending}'):
            assert f'tconv_mmaction/.mim/{path.relative_to(ROOT).as_posix()}' in names
    assert {'tconv_mmaction/.mim/model-index.yml', 'tconv_mmaction/py.typed'} <= names
    assert not any('__pycache__' in name or name.startswith(('tests/', 'projects/')) for name in names)


@pytest.mark.slow
def test_what_is_in_the_source_distribution(archive):
    with tarfile.open(archive) as packed:
        names = {name.partition('/')[2] for name in packed.getnames()}
    for folder in ('tests', 'tools', 'configs', 'projects', 'zoo', 'tconv_mmaction'):
        for path in (ROOT / folder).rglob('*'):
            parts = path.relative_to(ROOT).parts
            if path.is_file() and not {'__pycache__', '.mim'} & set(parts) and path.suffix != '.pyc':
                assert '/'.join(parts) in names
    assert {'constraints.txt', 'Makefile', 'mkdocs.yml', 'model-index.yml', '.ci/run'} <= names


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_source_distribution_passes_its_own_tests(archive, tmp_path):
    """A sample of them, from where it was unpacked; with SDIST_TESTS="tests/ops tests/cli" those instead."""
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, **(dict(filter='data') if hasattr(tarfile, 'data_filter') else {}))
    unpacked, = tmp_path.iterdir()
    path = str(unpacked)
    where = call([sys.executable, '-c', 'import tconv_mmaction; print(tconv_mmaction.__file__)'], tmp_path,
                 PYTHONPATH=path)
    assert where.startswith(path)
    sample = os.environ.get('SDIST_TESTS', 'tests/maths tests/layers/test_separable_conv3d.py tests/test_house.py '
                            'tests/cli/test_command.py tests/configs/test_recipes.py').split()
    output = call([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *sample], unpacked, PYTHONPATH=path)
    print(output.splitlines()[-1])
    assert re.search(r'^\d+ passed', output, re.M)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_mim_runs_trains_and_tests(wheel, tmp_path):
    programs = new_environment(wheel, tmp_path / 'environment')
    if not install(programs / 'python', 'openmim==0.3.9'):
        pytest.skip('pip could not install openmim 0.3.9 here')
    work = tmp_path / 'work'
    work.mkdir()
    mim = programs / 'mim'
    assert '| C-LSTM | 1,324,014 |' in call([mim, 'run', 'tconv_mmaction', 'paper_tables'], work)
    call([mim, 'train', 'tconv_mmaction', f'{CONFIG}.py', '--work-dir', 'mine', '--cfg-options',
          'train_cfg.max_epochs=1'], work)
    output = call([mim, 'test', 'tconv_mmaction', f'{CONFIG}.py', '--checkpoint', 'mine/epoch_1.pth', '--work-dir',
                   'tested'], work)
    assert float(re.search(r'acc/top1: ([\d.]+)', output)[1]) > 0.15  # 0.1 is chance


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_everything_from_an_empty_folder(environment, tmp_path):
    tconv = environment / 'tconv'
    where = call([environment / 'python', '-c', 'import tconv_mmaction; print(tconv_mmaction.__file__)'], tmp_path)
    assert str(environment.parent) in where
    assert 'Everything fits.' in call([tconv], tmp_path)
    assert 'usage: tconv report' in call([tconv, 'report', '--help'], tmp_path)

    output = call([tconv, 'demo', '--epochs', '1', '--out-dir', 'demo'], tmp_path)
    accuracy = float(re.search(r'^Test accuracy: ([\d.]+)', output, re.M)[1])
    assert accuracy > 0.2 and (tmp_path / 'demo/motion/table_2.md').is_file()  # 0.1 is chance
    assert (tmp_path / 'demo/test/confusion_matrix.png').is_file()

    # a shipped checkpoint, by name and by path: the accuracy of the zoo
    output = call([tconv, 'test', CONFIG, WEIGHTS, '--work-dir', 'tested'], tmp_path)
    assert 'acc/top1: 0.9767' in output
    call([tconv, 'report', CONFIG, WEIGHTS, '--dataset', 'test', '--indices', '0', '--iterations', '20', '--out',
          'page'], tmp_path)
    assert max(path.stat().st_size for path in (tmp_path / 'page').iterdir()) > 10_000

    (tmp_path / 'mine.py').write_text(f"_base_ = 'tconv_mmaction::recognition/lenet5/{CONFIG}.py'\n"
                                      'train_cfg = dict(max_epochs=1)\n')
    call([tconv, 'train', 'mine.py', '--work-dir', 'mine'], tmp_path)
    assert (tmp_path / 'mine/epoch_1.pth').is_file()
    call([environment / 'python', '-c', 'import tconv_mmaction; from mmaction.apis import MMAction2Inferencer; '
          'MMAction2Inferencer(rec="lenet5-3t_video-mnist")'], tmp_path)
