"""A 2D ResNet in functional calls and a random state dict of it with torchvision's names, 8 channels wide."""
import torch
import torch.nn.functional as F

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTH = 8


def random_resnet2d(depth):
    """A state dict in torchvision's public layout, with norms whose statistics fit the net and vary."""
    state = {}

    def conv(name, norm, inputs, outputs, k):
        state[f'{name}.weight'] = torch.randn(outputs, inputs, k, k, dtype=torch.float64) / (inputs * k * k)**.5
        state[f'{norm}.weight'] = .5 + torch.rand(outputs, dtype=torch.float64)
        state[f'{norm}.bias'] = torch.randn(outputs, dtype=torch.float64) * .3
        state[f'{norm}.running_mean'] = torch.zeros(outputs, dtype=torch.float64)
        state[f'{norm}.running_var'] = torch.ones(outputs, dtype=torch.float64)
        state[f'{norm}.num_batches_tracked'] = torch.tensor(7)

    expansion, inputs = (1 if depth < 50 else 4), WIDTH
    conv('conv1', 'bn1', 3, WIDTH, 7)
    for stage, blocks in enumerate(BLOCKS[depth]):
        planes = WIDTH * 2**stage
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}'
            shapes = [(inputs, planes, 3), (planes, planes, 3)] if expansion == 1 else [
                (inputs, planes, 1), (planes, planes, 3), (planes, planes * 4, 1)]
            for i, (a, b, k) in enumerate(shapes):
                conv(f'{name}.conv{i + 1}', f'{name}.bn{i + 1}', a, b, k)
            if block == 0 and (stage or expansion == 4):
                conv(f'{name}.downsample.0', f'{name}.downsample.1', inputs, planes * expansion, 1)
            inputs = planes * expansion
    state['fc.weight'], state['fc.bias'] = torch.randn(10, inputs), torch.randn(10)
    resnet2d(state, depth, torch.randn(8, 3, 40, 40, dtype=torch.float64), calibrate=True)
    for name in [name for name in state if name.endswith('running_var')]:
        state[name] = state[name] * (.7 + .6 * torch.rand_like(state[name]))
    return state


def resnet2d(state, depth, x, calibrate=False):
    """(N, 3, H, W) -> (N, C, H', W')."""

    def bn(x, name):
        if calibrate:
            state[f'{name}.running_mean'] = x.mean((0, 2, 3))
            state[f'{name}.running_var'] = x.var((0, 2, 3))
        return F.batch_norm(x, *(state[f'{name}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')))

    x = F.relu(bn(F.conv2d(x, state['conv1.weight'], stride=2, padding=3), 'bn1'))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate(BLOCKS[depth]):
        for block in range(blocks):
            name, stride = f'layer{stage + 1}.{block}', 2 if stage and not block else 1
            count = 2 if depth < 50 else 3
            y = x
            for i in range(1, count + 1):
                weight = state[f'{name}.conv{i}.weight']
                # torchvision's stride: in the 3x3 convolution that comes first
                s = stride if weight.shape[-1] == 3 and i == count - 1 else 1
                y = bn(F.conv2d(y, weight, stride=s, padding=weight.shape[-1] // 2), f'{name}.bn{i}')
                y = F.relu(y) if i < count else y
            if f'{name}.downsample.0.weight' in state:
                x = bn(F.conv2d(x, state[f'{name}.downsample.0.weight'], stride=stride), f'{name}.downsample.1')
            x = F.relu(x + y)
    return x
