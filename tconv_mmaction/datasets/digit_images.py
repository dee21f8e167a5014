"""Images of handwritten digits in three disjoint splits: MNIST's idx files, or the digits that scikit-learn brings.

The idx format (LeCun, Cortes and Burges, "The MNIST database of handwritten digits"): two zero bytes, the type (8 for
uint8), the number of dimensions, each dimension as a big-endian uint32, then the values. Plain or gzip-compressed.
"""
import gzip
import os
import zlib
from pathlib import Path
from typing import Tuple

import cv2
import numpy as np

SPLITS = ('train', 'val', 'test')
SIDE = 28
TRAIN_IMAGES = 50_000  # of MNIST's training file; the rest is for validation
# Images per class that scikit-learn's digits give to val and to test. The smallest class keeps 114 for training.
HELD_OUT = 30


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array in an idx file, plain or gzip-compressed (told by its content, not by its name).

    Raises:
        ValueError: if it is no idx file of uint8 with ``dims`` dimensions, or its length is not what its header says.
    """
    data = path.read_bytes()
    if data[:2] == b'\x1f\x8b':
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f'{path} is truncated or damaged: {error}. Fetch it again.') from error
    start = 4 + 4 * dims
    if len(data) < start:
        raise ValueError(f'{path} is truncated: {len(data)} bytes, and the header of an idx file of {dims} '
                         f'dimension(s) alone has {start}. Fetch it again.')
    magic, expected = int.from_bytes(data[:4], 'big'), 0x0800 + dims
    if magic != expected:
        raise ValueError(f'{path} starts with the number {magic}, and an idx file of uint8 with {dims} dimension(s) '
                         f'with {expected}. Are images and labels swapped, or is it another kind of file?')
    shape = tuple(int(n) for n in np.frombuffer(data, '>u4', count=dims, offset=4))
    values, needed = len(data) - start, int(np.prod(shape))
    if values < needed:
        raise ValueError(f'{path} is truncated: its header promises {needed} bytes of data ({shape}), and it has '
                         f'{values}. Fetch it again.')
    if values > needed:
        raise ValueError(f'{path} has {values} bytes of data, more than the {needed} that its header promises '
                         f'({shape}). Fetch it again.')
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f'{name}.gz'):
        if path.is_file():
            return path
    raise FileNotFoundError(f'{folder} has neither {name} nor {name}.gz. It must hold the four MNIST files, '
                            '{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, plain or .gz.')


def mnist_digits(data_root: str, split: str) -> Tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 28, 28)`` uint8 and labels ``(n,)``: train is MNIST's train[:50000], val train[50000:], test test.

    Raises:
        FileNotFoundError: if the folder or one of its files is not there.
        ValueError: if a file is damaged, or the two files of a split do not belong together.
    """
    folder = Path(os.path.expanduser(data_root))
    if not data_root or not folder.is_dir():  # Path('') would be the current folder
        raise FileNotFoundError(f"data_root={data_root!r} is no folder. Give the folder with MNIST's idx files, or "
                                "data_root=None for the digits that scikit-learn brings.")
    stem = 't10k' if split == 'test' else 'train'
    image_path, label_path = _find(folder, f'{stem}-images-idx3-ubyte'), _find(folder, f'{stem}-labels-idx1-ubyte')
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f'{image_path} holds images of {images.shape[1]}x{images.shape[2]} pixels, and MNIST has '
                         f'{SIDE}x{SIDE}.')
    if len(images) != len(labels):
        raise ValueError(f'{image_path} holds {len(images)} images and {label_path} {len(labels)} labels. They do not '
                         'belong together.')
    if labels.size and labels.max() > 9:
        raise ValueError(f'{label_path} holds the label {labels.max()}, and digits are 0 to 9.')
    if split != 'test':
        if len(images) <= TRAIN_IMAGES:
            raise ValueError(f"{image_path} holds {len(images)} images; the first {TRAIN_IMAGES} are split 'train' and "
                             "what follows is 'val', so it must hold more (MNIST has 60000).")
        part = slice(TRAIN_IMAGES) if split == 'train' else slice(TRAIN_IMAGES, None)
        images, labels = images[part].copy(), labels[part]  # a view would keep the whole file in memory
    return images, labels.astype(np.int64)


def sklearn_digits(split: str) -> Tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 28, 28)`` uint8 and labels ``(n,)`` of scikit-learn's 1797 digits, no download.

    The UCI "Optical Recognition of Handwritten Digits" test set: 8x8 pixels of 0 to 16, here times 255/16, upscaled
    to 28x28 with bicubic interpolation (``cv2.INTER_CUBIC``), cut to 0..255 and rounded. Of every class, a fixed
    random 30 images are test, another 30 val and the others train: 300, 300 and 1197, no image in two splits.
    """
    from sklearn.datasets import load_digits  # importing it takes a second, and MNIST needs it not
    digits = load_digits()
    rng, chosen = np.random.default_rng(0), []
    start, stop = dict(test=(0, HELD_OUT), val=(HELD_OUT, 2 * HELD_OUT), train=(2 * HELD_OUT, None))[split]
    for label in range(10):
        chosen.append(rng.permutation(np.flatnonzero(digits.target == label))[start:stop])
    chosen = np.sort(np.concatenate(chosen))
    small = digits.images[chosen].astype(np.float32) * (255 / 16)
    large = [cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) for image in small]
    return np.rint(np.clip(large, 0, 255)).astype(np.uint8), digits.target[chosen].astype(np.int64)
