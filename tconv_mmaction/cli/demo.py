"""``tconv demo``: the main job in a few minutes. Train a 3T network on Video-MNIST, test it, read what it learned."""
import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Sequence

CONFIG = 'lenet5-3t_scratch_1xb20-30x1x1-20e_video-mnist'


def newest(folder: Path, pattern: str) -> Path:
    """The newest file of that pattern below the folder.

    Raises:
        FileNotFoundError: if there is none.
    """
    files = sorted(folder.rglob(pattern), key=lambda path: path.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f'there is no {pattern} below {folder}')
    return files[-1]


def _step(arguments: List[str]) -> None:
    """One command in a process of its own: a Runner leaves loggers and visualizers behind that the next would find."""
    print(f'\n$ tconv {" ".join(arguments)}', flush=True)
    subprocess.run([sys.executable, '-m', 'tconv_mmaction', *arguments], check=True)


def command(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog='tconv demo', description=__doc__)
    parser.add_argument('--out-dir', default='work_dirs/demo', help='where everything is written (%(default)s)')
    parser.add_argument('--epochs', type=int, default=8, help='epochs of training (%(default)s)')
    args = parser.parse_args(arguments)
    if args.epochs < 1:
        parser.error(f'--epochs must be at least 1, got {args.epochs}')
    out = Path(args.out_dir)
    try:
        _step(['train', CONFIG, '--work-dir', str(out), '--cfg-options', f'train_cfg.max_epochs={args.epochs}'])
        best = newest(out, 'best_*.pth')
        _step(['test', CONFIG, str(best), '--work-dir', str(out / 'test')])
        _step(['params', CONFIG, str(best), '--out-dir', str(out / 'motion')])
    except subprocess.CalledProcessError as error:
        print(f'tconv demo: the command before this line ended with {error.returncode}', file=sys.stderr)
        return 1
    accuracy = re.findall(r'acc/top1: ([\d.]+)', newest(out / 'test', '*.log').read_text())
    print(f'\nTest accuracy: {accuracy[-1]}')
    print(f'What the network learned about motion, as a table and figures: {out / "motion"}')
    for path in sorted((out / 'motion').iterdir()):
        print(f'  {path.name}')
    return 0
