"""A sentence below a picture or film: what a reader must know who sees nothing but the picture."""
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (29, 36, 48), (253, 243, 234)
LEAST_WIDTH = 240  # pixels: narrower pictures are enlarged by a whole number, a sentence would not fit below them


def with_notice(images: np.ndarray, text: str) -> np.ndarray:
    """Images (H, W, 3) or (T, H, W, 3) uint8 with the sentence in a band below.

    Those narrower than 240 pixels are enlarged by a whole number first.
    """
    images = np.asarray(images)
    height, width = images.shape[-3:-1]
    factor = max(1, -(-LEAST_WIDTH // width))
    images = images.repeat(factor, -3).repeat(factor, -2)
    band = _band(width * factor, text)
    band = np.broadcast_to(band, (*images.shape[:-3], *band.shape))
    return np.concatenate([images, band], axis=-3)


def _band(width: int, text: str) -> np.ndarray:
    size = max(12, min(20, width // 24))
    file = Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'  # has most alphabets
    font = ImageFont.truetype(str(file), size)
    letters = max(8, int((width - 12) / (0.6 * size)))
    lines = textwrap.wrap(text, letters) or ['']
    image = Image.new('RGB', (width, round(1.4 * size * len(lines)) + 8), PAPER)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((6, 4 + round(1.4 * size * i)), line, fill=INK, font=font)
    return np.asarray(image)
