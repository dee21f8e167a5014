"""Where things are: the checkout, the reference material beside it, the golden files."""
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / 'shared'


def golden(pattern):
    """Golden files of that pattern from tests/data, as {name: {key: array}}."""
    return {path.stem: dict(np.load(path)) for path in sorted((ROOT / 'tests/data').glob(pattern))}
