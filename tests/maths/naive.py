"""The papers' equations once more, as loops over single numbers in float64: nothing of the package is used."""
import itertools
import math

import numpy as np


def affine(scale, rotate, translate_x, translate_y):
    """Eq. 3 of arXiv:2006.15983, for one filter and step: [[a, b, c], [d, e, f]]."""
    cos, sin = scale * math.cos(rotate), scale * math.sin(rotate)
    return [[cos, -sin, translate_x * cos - translate_y * sin], [sin, cos, translate_x * sin + translate_y * cos]]


def resampled(image, theta):
    """Eq. 4 and 5: bilinear, zero outside; -1 and 1 are the centres of the border pixels."""
    height, width = image.shape
    found = np.zeros((height, width))
    for i, j in itertools.product(range(height), range(width)):
        x = 2 * j / (width - 1) - 1 if width > 1 else 0.
        y = 2 * i / (height - 1) - 1 if height > 1 else 0.
        column = (theta[0][0] * x + theta[0][1] * y + theta[0][2] + 1) * (width - 1) / 2
        row = (theta[1][0] * x + theta[1][1] * y + theta[1][2] + 1) * (height - 1) / 2
        for k, m in itertools.product(range(height), range(width)):
            found[i, j] += image[k, m] * max(0., 1 - abs(row - k)) * max(0., 1 - abs(column - m))
    return found


def kernel_3t(weight, thetas, gain=None):
    """weight (O, I, kH, kW), thetas (kT-1, O, 2, 3), gain (kT, O) -> (O, I, kT, kH, kW)."""
    out_channels, in_channels, height, width = weight.shape
    kernel = np.zeros((out_channels, in_channels, len(thetas) + 1, height, width))
    for o, i in itertools.product(range(out_channels), range(in_channels)):
        kernel[o, i, 0] = weight[o, i]
        for b in range(len(thetas)):
            kernel[o, i, b + 1] = resampled(kernel[o, i, b], thetas[b][o])
    if gain is not None:
        for o, b in itertools.product(range(out_channels), range(len(thetas) + 1)):
            kernel[o, :, b] *= gain[b, o]
    return kernel


def conv3d(x, kernel, bias=None, stride=(1, 1, 1), padding=(0, 0, 0), dilation=(1, 1, 1), groups=1):
    """x (N, I, T, H, W), kernel (O, I/groups, kT, kH, kW) -> (N, O, T', H', W')."""
    out_channels, per_group, *taps = kernel.shape
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(padded.shape[2:], dilation, taps, stride)]
    y = np.zeros((len(x), out_channels, *sizes))
    for o in range(out_channels):
        first = o // (out_channels // groups) * per_group
        for place in itertools.product(*map(range, sizes)):
            for tap in itertools.product(*map(range, taps)):
                t, h, w = (p * s + k * d for p, s, k, d in zip(place, stride, tap, dilation))
                for c in range(per_group):
                    y[(slice(None), o, *place)] += kernel[(o, c, *tap)] * padded[:, first + c, t, h, w]
    return y if bias is None else y + bias[:, None, None, None]


def cosine(length, number):
    """Axis ``number`` of the discrete cosine transform (type II) of ``length`` frames, of norm 1."""
    values = [math.cos(math.pi * (t + .5) * number / length) for t in range(length)]
    norm = math.sqrt(sum(v * v for v in values))
    return [v / norm for v in values]


def branch_filter(weight, length, eta):
    """Eq. 6 of Kobayashi and Ye: [mu / eta, U] W~; weight (O, I, coefficients, kH, kW)."""
    infinite = math.isinf(eta) and length > 1
    axes = [cosine(length, n) for n in range(1 if infinite else 0, length)]
    if not infinite and not math.isinf(eta):
        axes[0] = [v / eta for v in axes[0]]
    found = np.zeros((*weight.shape[:2], length, *weight.shape[3:]))
    for t in range(length):
        for n, axis in enumerate(axes):
            found[:, :, t] += axis[t] * weight[:, :, n]
    return found


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def conv_lstm(x, weight_ih, weight_hh, bias, stride, padding, state=None):
    """x (N, C, T, H, W) -> outputs (N, F, T, H', W'), h, c; no peepholes, gates in the order i, f, g, o."""
    outputs, (h, c) = [], state if state is not None else (None, None)
    for t in range(x.shape[2]):
        gates = conv3d(x[:, :, t:t + 1], weight_ih[:, :, None], bias, (1, *stride), (0, *padding))[:, :, 0]
        if h is not None:
            gates = gates + conv3d(h[:, :, None], weight_hh[:, :, None], None, (1, 1, 1), (0, *padding))[:, :, 0]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(i) * np.tanh(g) + (sigmoid(f) * c if c is not None else 0)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=2), h, c
