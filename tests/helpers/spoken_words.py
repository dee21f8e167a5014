"""Lists of MIRACL-VC1's form for a few speakers, and clips of noise for them."""
from pathlib import Path
from typing import Dict

import numpy as np

from tconv_mmaction.cli.spoken_words import HEIGHT, MARGIN, WIDTH, read_list

SPEAKERS = [f'{sex}{number:02}' for sex in 'FM' for number in range(1, 6)]


def short_lists(folder: Path) -> str:
    """Two words, ten training speakers with three repetitions each, one other for the test. Gives the data root."""
    lines = [f'words/{word}/{who}_{i:02}.avi {label}\n' for label, word in enumerate(('begin', 'stop'))
             for who in SPEAKERS for i in range(3)]
    (folder / 'words_train_unseen1.txt').write_text(''.join(lines))
    (folder / 'words_test_unseen1.txt').write_text('words/begin/X01_01.avi 0\nwords/stop/X01_01.avi 1\n')
    return str(folder)


def noise_clips(data_root: str, frames: int) -> Dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (3, frames, HEIGHT + MARGIN, WIDTH + 2 * MARGIN), dtype=np.uint8)
            for part in ('train', 'test') for name in read_list(data_root, part, 1)[0]}
