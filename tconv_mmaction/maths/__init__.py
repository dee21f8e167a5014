"""The papers' equations in plain PyTorch: differentiable, on any device, without state. Everything faster in
:mod:`tconv_mmaction.ops` is tested against them."""
