"""Let released mmaction2 1.2 and mmengine 0.10, and the forks of mmengine and mmcv, work on today's libraries.

``import tconv_mmaction`` calls :func:`apply` before anything else. Each part lives in one module, answers one upstream
issue, and changes nothing where upstream is already right:

=============  ======================  ===========================================================================
part           upstream                what it does
=============  ======================  ===========================================================================
requirements   --                      a missing or unfit mmcv / mmengine says so, with the command to run
drn            mmaction2 #2714         stands in for the folder that the released wheel lacks
checkpoints    mmengine #1655          lets weights_only loading read what MMEngine writes, and nothing that runs code
distributed    --                      several processes on a machine without CUDA: gloo, and no device ids
whole_files    --                      a kill or a full disk leaves no half checkpoint; --resume passes over one
packages       --                      ``mmaction::`` and ``tconv_mmaction::`` configs, without pkg_resources
numpy_two      --                      names that numpy 2 removed, and ColorJitter's hue
inference      --                      one and many videos or folders of frames, drawn with labels
drawing        --                      videos and GIFs without moviepy; samples that VisualizationHook cannot draw
model_index    --                      inferencers know the models of this package by name
=============  ======================  ===========================================================================

``TCONV_MMACTION_NO_COMPAT=1`` switches all of it off. ``tconv doctor`` prints what was done.
"""
import importlib
import os
from typing import List, NamedTuple

__all__ = ['SWITCH', 'Part', 'apply', 'report']

SWITCH = 'TCONV_MMACTION_NO_COMPAT'


class Part(NamedTuple):
    """What one part of the layer did: ``applied`` is False where there was nothing to do or it was switched off."""
    name: str
    issue: str
    applied: bool
    detail: str


# Modules of this package with the upstream issue each answers, in the order in which they are applied. Imported one
# by one: what they import may be what `requirements` finds missing.
_PARTS = {
    'requirements': '',
    'drn': 'https://github.com/open-mmlab/mmaction2/issues/2714',
    'checkpoints': 'https://github.com/open-mmlab/mmengine/issues/1655',
    'distributed': '',
    'whole_files': '',
    'packages': '',
    'numpy_two': '',
    'inference': '',
    'drawing': '',
    'model_index': '',
}
_report: List[Part] = []


def apply() -> None:
    """Apply every part once; later calls do nothing.

    Raises:
        ImportError: if mmengine, mmcv, mmaction2's importlib_metadata or a version that fits is missing; it names the
            fix.
    """
    if _report:
        return
    if os.environ.get(SWITCH, '0').lower() not in ('', '0', 'false', 'no'):
        _report.extend(Part(name, issue, False, f'switched off by {SWITCH}') for name, issue in _PARTS.items())
        return
    done = [Part(name, issue, *importlib.import_module(f'.{name}', __name__).apply())
            for name, issue in _PARTS.items()]
    _report.extend(done)


def report() -> List[Part]:
    """What :func:`apply` did, one entry per part; empty before it ran."""
    return list(_report)
