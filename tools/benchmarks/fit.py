"""Reading every 3D kernel of a network as a 3T kernel: seconds, memory, and how good the fit is beside Adam's.

    python tools/benchmarks/fit.py --out-dir docs/benchmarks

'all layers' is ``fit_temporal_parameters(weight, gain=True)`` of every layer with T > 1 of a network, without the null,
for two kinds of weights: noise, and made ones like trained ones (smooth first slices that move, weighed slice by slice,
and a third of noise). 'above' is what the process's memory rose by; every network has a process of its own, since a
peak never falls. R3D-18 has 7x7x7 and 3x3x3 kernels, I3D-ResNet-18 3x7x7 and 3x3x3. The rows of one layer compare with
Adam by autograd on the same function, 8 random starts and 250 steps.
"""
import multiprocessing
import resource
import time
from typing import Optional, Sequence

import torch
import torch.nn.functional as F
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope

import tconv_mmaction  # noqa: F401
from tconv_mmaction.cli.timing import parser, report
from tconv_mmaction.interpret import fit_temporal_parameters, fittable_kernels
from tconv_mmaction.maths.projected_residual import ProjectedResidual, reduced
from tconv_mmaction.maths.temporal_transform import affine_matrix, temporal_kernel

NETWORKS = {'R3D-18': dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3)),
            'I3D-ResNet-18': dict(type='TemporalResNet3d', depth=18),
            'I3D-ResNet-18, 8 channels': dict(type='TemporalResNet3d', depth=18, base_channels=8)}


WEIGHTS = ('like trained', 'noise')


def trained_like(weight: torch.Tensor, noise: float = 0.3) -> torch.Tensor:
    """A made kernel of the same shape: smooth pictures that move and are weighed, as large as they were, and noise."""
    out_channels, in_channels, frames, height, width = weight.shape
    motion = 0.2 * torch.randn(out_channels, 4)
    theta = affine_matrix(*(value.expand(frames - 1, -1) for value in (motion[:, 0].exp(), *motion.T[1:])))
    first = F.avg_pool2d(torch.randn(out_channels, in_channels, height, width), 3, 1, 1)
    made = temporal_kernel(first, theta, 1 + torch.randn(frames, out_channels))
    return weight.std() * (made / made.std() + noise * torch.randn(weight.shape))


def adam(weight: torch.Tensor, starts: int = 8, steps: int = 250) -> torch.Tensor:
    """(O,) explained shares of the same model, searched by Adam."""
    torch.manual_seed(0)
    problem = ProjectedResidual(reduced(weight), tuple(weight.shape[2:]), gain=True)
    which = torch.arange(len(weight)).repeat(starts)
    x = 0.3 * torch.randn(len(which), problem.count)
    x[:, problem.motions:] += 1
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]['lr'] = 0.05 * (1 - step / steps) + 1e-3
        optimizer.zero_grad()
        problem.value(x, which).sum().backward()
        optimizer.step()
    with torch.no_grad():
        values = problem.value(x, which).view(starts, -1).amin(0)
    return 1 - values / weight.flatten(1).square().sum(1)


def timed(run):
    """(result, wall seconds, CPU seconds of all threads)."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, round(time.perf_counter() - wall, 1), round(time.process_time() - cpu, 1)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10  # MB, on Linux


def network_row(title: str, weights: str, device: str) -> dict:
    """The row of one network; called in a process of its own."""
    init_default_scope('mmaction')
    torch.manual_seed(0)
    kernels = {name: (trained_like(weight) if weights == 'like trained' else torch.randn_like(weight)).to(device)
               for name, weight in fittable_kernels(MODELS.build(NETWORKS[title])).items()}
    before = peak()
    found, wall, cpu = timed(lambda: [fit_temporal_parameters(weight, gain=True) for weight in kernels.values()])
    explained = torch.cat([fit.explained for fit in found])
    return dict(case=f'{title}, weights: {weights}', candidate='fit_temporal_parameters', layers=len(kernels),
                filters=len(explained), seconds=wall, cpu_seconds=cpu, explained=round(float(explained.mean()), 4),
                above_mb=peak() - before)


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    options.add_argument('--networks', nargs='+', choices=list(NETWORKS), default=list(NETWORKS), help='(default: all)')
    args = options.parse_args(argv)
    torch.manual_seed(0)
    rows = []
    layer = torch.randn(*((8, 8) if args.quick else (64, 64)), 3, 3, 3)
    with_lm, with_adam = timed(lambda: fit_temporal_parameters(layer, gain=True).explained), timed(lambda: adam(layer))
    for name, (explained, wall, cpu) in (('fit_temporal_parameters', with_lm), ('Adam, 250 steps', with_adam)):
        rows.append(dict(case=f'one layer, {layer.shape[1]} -> {layer.shape[0]}, 3x3x3', candidate=name, layers=1,
                         filters=len(layer), seconds=wall, cpu_seconds=cpu, explained=round(float(explained.mean()), 4),
                         above_mb=''))
    cases = [(title, weights) for title in args.networks for weights in WEIGHTS]
    if args.quick:
        cases = [('I3D-ResNet-18, 8 channels', 'noise')]
    for case in cases:
        with multiprocessing.get_context('spawn').Pool(1) as pool:
            rows.append(pool.apply(network_row, (*case, args.device)))
    # with --networks, the rows of the others stay
    report('fit', rows, args, how='one run', cases=[
        rows[0]['case'], *(f'{title}, weights: {weights}' for title in NETWORKS for weights in WEIGHTS)])


if __name__ == '__main__':
    main()
