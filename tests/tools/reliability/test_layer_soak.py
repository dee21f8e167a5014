"""tools/reliability/layer_soak.py: the slopes of samples made by hand, and a few seconds of the real thing."""
import json
import runpy

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.paths import ROOT

from tconv_mmaction.ops import memory, release_memory

TOOL = runpy.run_path(str(ROOT / 'tools/reliability/layer_soak.py'))


@pytest.mark.parametrize('leak', [0., 24.])
def test_slopes(tmp_path, leak):
    rng, seconds = np.random.default_rng(0), np.arange(0., 7200, 30)
    pd.DataFrame(dict(cpu_s=seconds, steps=(seconds * 10).astype(int), rss_mb=600 + leak * seconds / 3600 + rng.normal(
        0, 2, len(seconds)), uss_mb=500., held_mb=60., tensors=570)).to_csv(tmp_path / 'samples.csv', index=False)
    assert '71,700 steps, 1.99 h of CPU time, 220 of 240 samples' in TOOL['report'](tmp_path, 10.)
    found = json.loads((tmp_path / 'report.json').read_text())
    line = found['rss_mb']['per_cpu_hour']
    assert abs(line['slope'] - leak) < line['high'] - line['low'] < 2. and (line['low'] > 10) == (leak > 10)
    assert found['held_mb']['per_cpu_hour'] == dict(slope=0., low=0., high=0.) and found['tensors']['max'] == 570


def test_every_layer_makes_steps():
    import random
    torch.manual_seed(0)
    rng = random.Random(0)
    release_memory()
    assert memory.held_bytes() == 0
    for plain in (False, True):
        for channels, make in TOOL['makers'](plain).values():
            layer = make()
            before = [p.detach().clone() for p in layer.parameters()]
            for _ in range(5):
                TOOL['one_step'](layer, channels, rng)
            assert any(not torch.equal(a, b) for a, b in zip(before, layer.parameters()))
            assert all(p.grad is None for p in layer.parameters())
        assert (memory.held_bytes() > 0) == (not plain)
        release_memory()
        assert memory.held_bytes() == 0
