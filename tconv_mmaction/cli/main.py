"""The command ``tconv``, which is ``python -m tconv_mmaction``: the tools by name, from any folder.

    tconv                          versions, what compat did and what does not fit (``tconv doctor``)
    tconv --help                   every command in a line
    tconv COMMAND --help           the options of one
    tconv train lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist
    tconv run deployment/publish_model.py IN OUT

A command is a script of ``tools/``, run as Python would run it, so ``tconv report`` and ``python
tools/analysis/report.py`` are one. A wheel has the scripts in ``tconv_mmaction/.mim``, with configs and small
checkpoints: where an argument is no file, but the name of a shipped config or the path of a shipped file
(``configs/...``, ``zoo/...``), that file is meant.
"""
import argparse
import ast
import difflib
import pickle
import sys
import types
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from ..setup_checks import SetupError
from ..utils.mim_folder import find_shipped, mim_folder
from . import demo, doctor, mim_scripts

# command -> script below tools/; their order is the order of the help
SCRIPTS = {
    'train': 'train.py', 'test': 'test.py', 'curves': 'analysis/curves.py', 'report': 'analysis/report.py',
    'params': 'analysis/temporal_params.py', 'grad-cam': 'analysis/grad_cam.py',
    'fit': 'analysis/fit.py', 'fit-3t': 'convert/fit_3t.py', 'compare-runs': 'compare_runs.py',
    'pack': 'data/pack_clips.py',
    'masks': 'analysis/temporal_masks.py', 'filters': 'analysis/temporal_filters.py',
    'field': 'analysis/receptive_field.py', 'kernels': 'analysis/kernel_slices.py',
    'strips': 'analysis/film_strips.py', 'saliency': 'analysis/saliency.py',
    'channels': 'analysis/class_channels.py', 'compare': 'analysis/compare_models.py',
    'explanations': 'analysis/explanation_quality.py',
    'augmentations': 'analysis/show_augmentations.py',
    'paper-tables': 'analysis/paper_tables.py', 'class-folders': 'data/class_folders.py',
    'check-videos': 'data/check_videos.py', 'class-weights': 'data/class_weights.py',
    'class-subset': 'data/class_subset.py', 'video-mnist': 'data/video_mnist.py', 'motion': 'data/clip_motion.py',
    'inflate': 'convert/inflate_2d.py',
    'public-3d': 'convert/public_3d.py', 'publish': 'publish.py', 'reparameterize': 'deploy/reparameterize_model.py',
    'export': 'deploy/export_onnx.py', 'video-demo': 'demo/video_demo.py', 'stream': 'demo/stream_clstm.py',
}
OWN = {
    'doctor': 'Versions, what was adapted, and what does not fit with the command that mends it.',
    'demo': 'Train, test and read a small 3T network: the main job in a few minutes.',
    'run': "One of mmaction2's own scripts with the adaptations: tconv run deployment/publish_model.py IN OUT.",
    'completion': 'The completion script of a shell (bash, zsh, tcsh), by the library shtab.',
}


def run_script(name: str, arguments: Sequence[str], mistakes: Tuple[type, ...] = ()) -> int:
    """:func:`.mim_scripts.run_script`; a wrong setup, a refused file and ``mistakes`` are a message, no traceback."""
    try:
        mim_scripts.run_script(name, arguments)
    except (SetupError, pickle.UnpicklingError, *mistakes) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 1
    return 0


def available() -> Dict[str, Path]:
    """The commands that are scripts, with their files; a script that is not there is no command."""
    tools = mim_folder() / 'tools'
    return {name: tools / script for name, script in SCRIPTS.items() if (tools / script).is_file()}


def summary(script: Path) -> str:
    """The first line of a script's docstring."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding='utf-8'))) or '').partition('\n')[0]


def overview() -> str:
    """The text of ``tconv --help``."""
    lines = {**{name: summary(script) for name, script in available().items()}, **OWN}
    width = max(map(len, lines))
    return '\n'.join([
        'usage: tconv COMMAND ...     (the same: python -m tconv_mmaction COMMAND ...)', '',
        'Temporal convolutions of four papers and their analysis, for mmaction2.',
        'Without a command: doctor. The options of a command: tconv COMMAND --help', '', 'commands:',
        *(f'  {name:<{width}}  {text}' for name, text in lines.items()), '',
        'CONFIG is a file, or the name of a shipped config (tconv train --help lists none; see',
        f'{mim_folder() / "configs"}); shipped checkpoints are in {mim_folder() / "zoo"}.'])


def with_shipped_files(arguments: Sequence[str]) -> List[str]:
    """The arguments, each that is no file here but means a shipped one (``find_shipped``) replaced by its path."""
    found = []
    for argument in arguments:
        shipped = None if argument.startswith('-') or Path(argument).exists() else find_shipped(argument)
        found.append(argument if shipped is None else str(shipped))
    return found


def run_tool(name: str, script: Path, arguments: Sequence[str]) -> int:
    """Run a script of tools/ as ``python SCRIPT ARGUMENTS`` would, in this process; returns its exit status."""
    argv, search_path, caller = sys.argv, list(sys.path), sys.modules['__main__']
    # not by runpy: that makes the file's name the program's name, which argparse prints as how to call it
    module = types.ModuleType('__main__')
    module.__file__ = str(script)
    sys.modules['__main__'], sys.argv = module, [f'tconv {name}', *with_shipped_files(arguments)]
    sys.path.insert(0, str(script.parent))  # as Python does for a script
    try:
        exec(compile(script.read_bytes(), str(script), 'exec'), module.__dict__)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    finally:
        sys.argv, sys.path[:], sys.modules['__main__'] = argv, search_path, caller
    return 0


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog='tconv run', description=OWN['run'])
    parser.add_argument('script', help='path below mmaction/.mim/tools, such as deployment/publish_model.py')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='what the script takes')
    args = parser.parse_args(arguments)
    return run_script(args.script, args.arguments, (FileNotFoundError, ))


def _completion(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog='tconv completion', description=OWN['completion'] + ' '
                                     'Put it where the shell looks, for instance: tconv completion bash > '
                                     '~/.local/share/bash-completion/completions/tconv')
    parser.add_argument('shell', choices=['bash', 'zsh', 'tcsh'])
    args = parser.parse_args(arguments)
    try:
        import shtab
    except ImportError:
        print('ImportError: completion needs the library shtab: pip install shtab', file=sys.stderr)
        return 1
    everything = argparse.ArgumentParser(prog='tconv')
    commands = everything.add_subparsers()
    for name, text in {**{name: summary(script) for name, script in available().items()}, **OWN}.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument('files', nargs='*').complete = shtab.FILE
    print(shtab.complete(everything, args.shell))
    return 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else list(arguments)) or ['doctor']
    if name in ('-h', '--help', 'help'):
        print(overview())
        return 0
    own = {'doctor': doctor.command, 'demo': demo.command, 'run': _run, 'completion': _completion}
    if name in own:
        return own[name](rest)
    scripts = available()
    if name not in scripts:
        near = difflib.get_close_matches(name, [*scripts, *OWN], n=3, cutoff=0.5)
        meant = f' Did you mean {" or ".join(near)}?' if near else ''
        print(f'tconv: there is no command {name!r}.{meant} tconv --help lists all.', file=sys.stderr)
        return 2
    return run_tool(name, scripts[name], rest)
