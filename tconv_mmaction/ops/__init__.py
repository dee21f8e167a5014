"""How to compute the layers faster, and how to choose: nothing here knows mmaction2, and modules are not imported.

``with ops.use('reference'):`` (or TCONV_OPS=reference) gives every layer PyTorch's own operations on the papers'
equations; ``ops.explain(layer, x)`` says how a layer computes an input, and why; ``ops.release_memory()`` gives back
what is kept between calls.
"""
from .dispatch import explain, use
from .memory import release_memory

__all__ = ['explain', 'release_memory', 'use']
