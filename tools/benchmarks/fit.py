"""Reading every 3D kernel of a network as a 3T kernel: seconds, memory, and how good the fit is beside Adam's.

    python tools/benchmarks/fit.py --out-dir docs/benchmarks

'all layers' is ``fit_temporal_parameters(weight, gain=True)`` of every layer with T > 1 of a 3D ResNet-18 with random
weights, on which the search converges slowest, without the null; 'above' is what the process's memory rose by. The rows
of one layer compare with Adam by autograd on the same function, 8 random starts and 250 steps.
"""
import resource
import time
from typing import Optional, Sequence

import torch
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope

import tconv_mmaction  # noqa: F401
from tconv_mmaction.cli.timing import parser, report
from tconv_mmaction.interpret import fit_temporal_parameters, fittable_kernels
from tconv_mmaction.maths.projected_residual import ProjectedResidual, reduced

NETWORKS = {'R3D-18': dict(type='TemporalResNet3d', depth=18),
            'R3D-18, 8 channels': dict(type='TemporalResNet3d', depth=18, base_channels=8)}


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


def main(argv: Optional[Sequence[str]] = None) -> None:
    options = parser(__doc__)
    args = options.parse_args(argv)
    init_default_scope('mmaction')
    torch.manual_seed(0)
    rows = []
    layer = torch.randn(*((8, 8) if args.quick else (64, 64)), 3, 3, 3)
    with_lm, with_adam = timed(lambda: fit_temporal_parameters(layer, gain=True).explained), timed(lambda: adam(layer))
    for name, (explained, wall, cpu) in (('fit_temporal_parameters', with_lm), ('Adam, 250 steps', with_adam)):
        rows.append(dict(case=f'one layer, {layer.shape[1]} -> {layer.shape[0]}, 3x3x3', candidate=name,
                         filters=len(layer), seconds=wall, cpu_seconds=cpu, explained=round(float(explained.mean()), 4),
                         above_mb=''))
    for title, config in NETWORKS.items():
        if args.quick and title == 'R3D-18':
            continue
        kernels = fittable_kernels(MODELS.build(config))
        kernels = {name: weight.to(args.device) for name, weight in kernels.items()}
        before = peak()
        found, wall, cpu = timed(lambda kernels=kernels: [fit_temporal_parameters(weight, gain=True)
                                                          for weight in kernels.values()])
        explained = torch.cat([fit.explained for fit in found])
        rows.append(dict(case=f'all {len(kernels)} layers of {title}', candidate='fit_temporal_parameters',
                         filters=len(explained), seconds=wall, cpu_seconds=cpu,
                         explained=round(float(explained.mean()), 4), above_mb=peak() - before))
    report('fit', rows, args, how='one run')


if __name__ == '__main__':
    main()
