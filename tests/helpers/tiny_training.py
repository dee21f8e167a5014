"""A model and data for a Runner whose epochs take milliseconds."""
import torch
from mmengine.model import BaseModel
from torch import nn

from tconv_mmaction.layers import Conv3T


class TinyModel(BaseModel):
    """A 3D convolution, a mean and a linear layer; clips (N, 1, T, H, W), two classes."""

    def __init__(self, conv=None):
        super().__init__()
        self.conv = Conv3T(1, 2, 3) if conv is None else conv
        self.fc = nn.Linear(self.conv.out_channels, 2)

    def forward(self, inputs, labels, mode='tensor'):
        logits = self.fc(self.conv(inputs).mean((2, 3, 4)))
        return dict(loss=nn.functional.cross_entropy(logits, labels)) if mode == 'loss' else logits


class TinyData(torch.utils.data.Dataset):
    """Noise; a clip (1, 4, 5, 5) is a function of its index."""

    metainfo = {}

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return dict(inputs=torch.randn(1, 4, 5, 5, generator=generator), labels=i % 2)
