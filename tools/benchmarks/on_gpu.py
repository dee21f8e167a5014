"""What cannot be known without a GPU, in one command of at most eight minutes: tools/benchmarks/on_gpu.sh.

    python tools/benchmarks/on_gpu.py --out-dir docs/benchmarks
    python tools/benchmarks/on_gpu.py --dry --out-dir out      # on a CPU, tiny: whether the script itself runs
    python tools/benchmarks/on_gpu.py --parts steps layers     # some of it

Each part is a process with a limit of its own, and writes a line of JSON for every row as it is measured: what was
reached before a limit stays. At the end on_gpu.md has the tables, the machine's name in their first line;
``tools/benchmarks/all.py --no-run --page docs/benchmarks.md`` puts them into the docs. Times are medians of
torch.cuda.Event; ``wall`` is the host's, which is what counts where launches are the limit; ``busy`` is the sum over
kernels by the profiler. Parts: tests, machine, errors, steps, nets, clstm, layers, masks, graphs.
"""
import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from tconv_mmaction import ops
from tconv_mmaction.hooks.channels_last_hook import channels_last
from tconv_mmaction.interpret import find_temporal_mask
from tconv_mmaction.layers import Conv3T

ROOT = Path(__file__).resolve().parents[2]
LIMITS = dict(tests=110, machine=20, errors=40, steps=110, nets=70, clstm=30, layers=30, masks=20, graphs=35)  # seconds
TOTAL = 475.  # of all parts
TYPES = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)
R18 = dict(type='TemporalResNet3d', depth=18, temporal_kernels=(7, 3, 3, 3, 3), conv1_stride_t=2,
           pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2))
R50 = dict(type='TemporalResNet3d', depth=50, temporal_kernels=(1, 1, 3, 3, 5))
NETS = {  # backbone and the channels it ends with
    '3D-ResNet18': (dict(R18, temporal_cfg=dict(type='Conv3d')), 512),
    '3T-ResNet18': (dict(R18, temporal_cfg=dict(type='Conv3T')), 512),
    '3D-GoogLeNet': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3d')), 1024),
    '3T-GoogLeNet': (dict(type='GoogLeNet3d', temporal_cfg=dict(type='Conv3T')), 1024),
    'I3D-R50': (dict(R50, temporal_cfg=dict(type='Conv3d')), 2048),
    'I3D-R50, multi-branch': (dict(R50, temporal_cfg=dict(type='MultiBranchConv3d')), 2048),
    'C-LSTM': (dict(type='ConvLSTMNet', num_layers=3), 32),
    'C-LSTM, clip norm': (dict(type='ConvLSTMNet', num_layers=3, shared_norm=False, norm_statistics='clip'), 32),
}
DRY = False
DEVICE = 'cuda'


class Classifier(nn.Module):
    """A backbone, the mean over what is left of the clip, and a linear layer."""

    def __init__(self, name: str) -> None:
        super().__init__()
        config, channels = NETS[name]
        self.backbone, self.fc = MODELS.build(dict(config)), nn.Linear(channels, 27)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.backbone(x).mean((2, 3, 4)))


def autocast(kind: str):
    return torch.autocast(DEVICE, dtype=TYPES[kind]) if kind != 'fp32' else contextlib.nullcontext()


def classifier(name: str, kind: str) -> nn.Module:
    torch.manual_seed(0)
    net = Classifier(name).to(DEVICE).train()
    if kind != 'fp32' and 'LSTM' not in name:
        channels_last(net)
    return net


def training_step(net: nn.Module, x: Tensor, kind: str) -> Callable[[], None]:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5, fused=DEVICE == 'cuda')
    labels = torch.zeros(len(x), dtype=torch.long, device=DEVICE)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(kind):
            loss = nn.functional.cross_entropy(net(x).float(), labels)
        loss.backward()
        optimizer.step()

    return run


def measure(run: Callable[[], object], seconds: float = 1.5) -> Dict[str, float]:
    """Milliseconds per call on the device and on the host's clock, medians; number and sum of its kernels."""
    for _ in range(1 if DRY else 3):
        run()
    if DEVICE == 'cpu':
        begin = time.perf_counter()
        run()
        return dict(ms=0., wall=round(1e3 * (time.perf_counter() - begin), 2), kernels=0, busy=0.)
    torch.cuda.synchronize()
    on_device, on_host, begin = [], [], time.perf_counter()
    while len(on_device) < 5 or (len(on_device) < 40 and time.perf_counter() - begin < seconds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        clock = time.perf_counter()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        on_host.append(1e3 * (time.perf_counter() - clock))
        on_device.append(start.elapsed_time(end))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return dict(ms=round(statistics.median(on_device), 3), wall=round(statistics.median(on_host), 3),
                kernels=len(kernels), busy=round(sum(e.device_time for e in kernels) / 1e3, 3))


def against(rows: Dict[str, Dict[str, float]], peer: str, name: str) -> dict:
    """The ratio to a peer that was measured before, on the host's clock."""
    return dict(ratio=round(rows[name]['wall'] / rows[peer]['wall'], 3)) if peer in rows and name in rows else {}


Say = Callable[..., None]


def machine(say: Say) -> None:
    """What everything is measured against."""
    if DEVICE == 'cpu':
        return say(what='no GPU')
    large = torch.randn(1 << 27, device=DEVICE)
    target = torch.empty_like(large)
    say(what='copy, TB/s', value=round(8 * large.numel() / measure(lambda: target.copy_(large))['ms'] / 1e9, 2))
    square = torch.randn(8192, 8192, device=DEVICE).bfloat16()
    say(what='bfloat16 product, TFLOP/s', value=round(2 * 8192**3 / measure(lambda: square @ square)['ms'] / 1e9))
    one = torch.zeros(1, device=DEVICE)
    say(what='launch, us of the host', value=round(measure(lambda: [one.add_(1) for _ in range(1000)])['wall'], 2))
    clips = torch.randint(0, 255, (32, 3, 30, 150, 224), dtype=torch.uint8)
    say(what='32 clips to the device, pageable, ms', value=measure(lambda: clips.to(DEVICE))['wall'])
    pinned = clips.pin_memory()
    say(what='32 clips to the device, pinned, ms', value=measure(lambda: pinned.to(DEVICE, non_blocking=True))['wall'])


def errors(say: Say) -> None:
    """Relative errors against float64 on the CPU, of outputs and of all gradients."""
    for arguments, shape in ((dict(), (16, 16, 3)), (dict(gain=True), (16, 16, 3)), (dict(), (3, 8, 7)),
                             (dict(transform='free'), (16, 8, 5)))[:2 if DRY else 4]:
        torch.manual_seed(1)
        exact = Conv3T(*shape, padding=shape[2] // 2, motion_std=(.3, .3, .1), **arguments).double()
        x = torch.randn(2, shape[0], 6, 12, 12, dtype=torch.float64)
        y = exact(x)
        grad = torch.randn_like(y)
        y.backward(grad)
        wanted = [y.detach(), *(p.grad for p in exact.parameters())]
        for name in ('kernel_triton', 'kernel_product', 'reference'):
            for kind in TYPES if DEVICE == 'cuda' else ('fp32', 'bf16'):
                own = Conv3T(*shape, padding=shape[2] // 2, **arguments)
                own.load_state_dict({k: v.float() for k, v in exact.state_dict().items()})
                own = own.to(DEVICE)
                with ops.use(name), autocast(kind):
                    z = own(x.float().to(DEVICE))
                z.backward(grad.to(z))
                found = [z.detach(), *(p.grad for p in own.parameters())]
                worst = max(((a.double().cpu() - b).norm() / b.norm().clamp(min=1e-30)).item()
                            for a, b in zip(found[1:], wanted[1:]))
                output = ((found[0].double().cpu() - wanted[0]).norm() / wanted[0].norm()).item()
                say(layer=f'{shape[0]}->{shape[1]} {shape[2]}^3 {arguments or ""}', way=name, type=kind,
                    output=f'{output:.1e}', worst_gradient=f'{worst:.1e}')


def compare(say: Say, names: Sequence[str], size: Tuple[int, int, int], batches: Sequence[int],
            kinds: Sequence[str] = ('bf16', 'fp32'), evaluation: bool = True) -> None:
    for kind in kinds[-1:] if DRY else kinds:
        for batch in batches:
            steps: Dict[str, dict] = {}
            evaluations: Dict[str, dict] = {}
            for name in names:
                if DEVICE == 'cuda':
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                net, x = classifier(name, kind), torch.randn(batch, 3, *size, device=DEVICE)
                steps[name] = measure(training_step(net, x, kind))
                peak = torch.cuda.max_memory_allocated() >> 20 if DEVICE == 'cuda' else 0
                row = dict(net=name, batch=batch, type=kind)
                say(**row, mode='step', **steps[name], MiB=peak, **against(steps, names[0], name))
                if evaluation:
                    net.eval()
                    with torch.no_grad(), autocast(kind):
                        evaluations[name] = measure(lambda net=net, x=x: net(x), .5)
                    say(**row, mode='eval', **evaluations[name], **against(evaluations, names[0], name))
                del net, x


def steps(say: Say) -> None:
    """3T against 3D: the paper's clip of 30 frames of 150x224."""
    compare(say, ('3D-ResNet18', '3T-ResNet18'), (8, 48, 48) if DRY else (30, 150, 224), (2, ) if DRY else (8, 32))


def nets(say: Say) -> None:
    """GoogLeNet, and I3D-R50 with one filter and with branches; bfloat16 only."""
    batches = (2 if DRY else 8, )
    compare(say, ('3D-GoogLeNet', '3T-GoogLeNet'), (16, 64, 64) if DRY else (30, 150, 224), batches, ('bf16', ))
    compare(say, ('I3D-R50', 'I3D-R50, multi-branch'), (8, 48, 48) if DRY else (32, 224, 224), batches, ('bf16', ))


def clstm(say: Say) -> None:
    """16 steps of 224x224 by the clip as one node and by the reference, one operation after the other."""
    for way in ('auto', 'reference'):
        with ops.use(way):
            compare(lambda way=way, **row: say(way=way, **row), ('C-LSTM', 'C-LSTM, clip norm'),
                    (4, 64, 64) if DRY else (16, 224, 224), (2 if DRY else 8, ), evaluation=False)


def layers(say: Say) -> None:
    """One layer, forward and backward, in every way of making its kernel; the stem of a ResNet at last."""
    shapes = [(64, 64, 3, (8, 38, 56)), (128, 128, 3, (4, 19, 28)), (256, 256, 3, (2, 10, 14)),
              (512, 512, 3, (1, 5, 7)), (3, 64, 7, (30, 150, 224))]
    for inputs, channels, kernel, size in shapes[:1] if DRY else shapes:
        for kind in ('bf16', 'fp32'):
            x = torch.randn(1 if DRY else 8, inputs, *size, device=DEVICE)
            x = x.contiguous(memory_format=torch.channels_last_3d) if kind == 'bf16' else x
            x.requires_grad_()
            rows: Dict[str, dict] = {}
            for name in ('nn.Conv3d', 'kernel_triton', 'kernel_product', 'reference'):
                layer = (nn.Conv3d if name == 'nn.Conv3d' else Conv3T)(
                    inputs, channels, kernel, stride=2 if kernel == 7 else 1, padding=kernel // 2, bias=False)
                layer = layer.to(DEVICE)
                if name == 'nn.Conv3d' and kind == 'bf16':
                    layer = layer.to(memory_format=torch.channels_last_3d)

                def both(layer=layer, x=x, kind=kind) -> None:
                    with autocast(kind):
                        y = layer(x)
                    torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))

                with ops.use('auto' if name == 'nn.Conv3d' else name):
                    rows[name] = measure(both, .3)
                say(layer=f'{inputs}->{channels} {kernel}^3 @ {"x".join(map(str, size))}', way=name, type=kind,
                    **rows[name], **against(rows, 'nn.Conv3d', name))


def masks(say: Say) -> None:
    """Milliseconds of an iteration of the mask search."""
    for name in ('3T-ResNet18', 'C-LSTM, clip norm'):
        net = classifier(name, 'fp32').eval()
        clip = torch.randn(*((1, 3, 8, 48, 48) if DRY else (8, 3, 16, 112, 112)), device=DEVICE)
        for iterations in (1, 2) if DRY else (5, 55):  # the difference is iterations alone
            begin = time.perf_counter()
            find_temporal_mask(lambda c, net=net: net(c).softmax(1), clip, iterations=iterations, tolerance=0.,
                               model=net)
            torch.cuda.synchronize() if DEVICE == 'cuda' else None
            say(net=name, clips=len(clip), iterations=iterations, wall=round(1e3 * (time.perf_counter() - begin), 1))


def graphs(say: Say) -> None:
    """The whole step as a CUDA graph: whether it can be captured, and its time without launches."""
    if DEVICE == 'cpu':
        return say(what='no GPU')
    for name, size in (('3D-ResNet18', (30, 150, 224)), ('3T-ResNet18', (30, 150, 224)), ('C-LSTM', (16, 224, 224))):
        net = classifier(name, 'bf16')
        x, labels = torch.randn(8, 3, *size, device=DEVICE), torch.zeros(8, dtype=torch.long, device=DEVICE)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-5, fused=True, capturable=True)

        def run(net=net, x=x, labels=labels, optimizer=optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(DEVICE, dtype=torch.bfloat16, cache_enabled=False):
                loss = nn.functional.cross_entropy(net(x).float(), labels)
            loss.backward()
            optimizer.step()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        say(net=name, batch=8, type='bf16', mode='step as a graph', **measure(graph.replay, 1.))


PARTS = dict(machine=machine, errors=errors, steps=steps, nets=nets, clstm=clstm, layers=layers, masks=masks,
             graphs=graphs)


def run_part(name: str, path: Path) -> None:
    """In a process of its own: rows as lines of JSON, one after the other."""
    init_default_scope('mmaction')
    with open(path, 'w', encoding='utf-8') as file:

        def say(**row) -> None:
            print('  '.join(f'{key}={value}' for key, value in row.items()), flush=True)
            file.write(json.dumps(row) + '\n')
            file.flush()

        try:
            PARTS[name](say)
        except Exception as error:  # the other parts are still worth having
            say(error=f'{type(error).__name__}: {str(error).splitlines()[0][:200]}')
            raise


def run_tests(path: Path) -> List[str]:
    """The command that runs the tests marked gpu."""
    where = ['tests/ops/conv_lstm/test_whole_clip.py'] if DRY else ['tests']
    return [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '-p', 'no:cacheprovider', f'--junitxml={path}', *where]


def machine_name() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{platform.processor() or "a CPU"} (dry run)'
    triton = 'no Triton'
    with contextlib.suppress(ImportError):
        import triton as package
        triton = f'Triton {package.__version__}'
    return f'{name}; torch {torch.__version__}, CUDA {torch.version.cuda}, {triton}, Python {platform.python_version()}'


def table(rows: Sequence[dict]) -> List[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ['---'] * len(columns), *([row.get(column, '') for column in columns] for row in rows)]
    return ['| ' + ' | '.join(map(str, line)) + ' |' for line in lines]


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the parts, write the tables; 1 if a part failed or ran into its limit."""
    global DRY, DEVICE
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--out-dir', type=Path, default=Path('work_dirs/on_gpu'))
    options.add_argument('--parts', nargs='+', choices=LIMITS, default=list(LIMITS))
    options.add_argument('--dry', action='store_true', help='on the CPU, with tiny sizes')
    options.add_argument('--inside', choices=PARTS, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    DRY = args.dry
    DEVICE = 'cpu' if args.dry else 'cuda'
    folder = args.out_dir / 'on_gpu'
    if args.inside:
        run_part(args.inside, folder / f'{args.inside}.jsonl')
        return 0
    if not args.dry and not torch.cuda.is_available():
        raise SystemExit('on_gpu.py measures on a GPU, and torch.cuda.is_available() is False here. --dry tries the '
                         'script itself on the CPU.')
    folder.mkdir(parents=True, exist_ok=True)
    text, failed = [f'on_gpu on {machine_name()}; {time.strftime("%Y-%m-%d")}'], []
    started = time.monotonic()
    for name in args.parts:
        left = TOTAL - (time.monotonic() - started)
        limit = 3600 if DRY else max(1., min(LIMITS[name], left))  # a dry run is no measurement, and CPUs are slow
        path = folder / f'{name}.{"xml" if name == "tests" else "jsonl"}'
        path.unlink(missing_ok=True)
        command = run_tests(path) if name == 'tests' else [
            sys.executable, __file__, '--out-dir', str(args.out_dir), '--inside', name, *(['--dry'] if DRY else [])]
        print(f'-- {name}, at most {limit:.0f} s', flush=True)
        begin, ended = time.monotonic(), ''
        try:
            status = subprocess.run(command, cwd=ROOT if name == 'tests' else None, timeout=limit,
                                    env={**os.environ, 'PYTHONPATH': os.pathsep.join(
                                        filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))}).returncode
            if status:
                ended = f', ended with status {status}'
        except subprocess.TimeoutExpired:
            ended = f', stopped at its limit of {limit:.0f} s'
        if ended:
            failed.append(name)
        text += ['', f'**{name}**: {time.monotonic() - begin:.0f} s{ended}']
        if name != 'tests' and path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
            text += ['', *table(rows)] if rows else []
        (args.out_dir / 'on_gpu.md').write_text('\n'.join(text) + '\n', encoding='utf-8')  # after every part
    print('\n'.join(text))
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())
