"""The worked example of docs/extending.md: its files are written as they stand there, imported and used."""
import importlib
import sys

import pytest
import torch
from helpers.doc_pages import blocks
from helpers.resnet2d import WIDTH, random_resnet2d
from mmaction.registry import MODELS
from mmaction.structures import ActionDataSample
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT_MODELS

from tconv_mmaction.layers import switch_to_deploy


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """(module of the layer, the config's model)."""
    folder = tmp_path_factory.mktemp('extending')
    (folder / 'my_project').mkdir()
    code = [block.code for block in blocks('python') if block.page == 'docs/extending.md']
    for text in code:
        if text.startswith('# '):
            (folder / text.split('\n')[0][2:]).write_text(text)
    sys.path.insert(0, str(folder))
    config = Config.fromstring(next(text for text in code if 'custom_imports' in text), '.py')  # imports the files
    yield importlib.import_module('my_project.fading_conv'), config.model
    sys.path.remove(str(folder))
    for name in ('my_project', 'my_project.fading_conv', 'my_project.two_stage_net'):
        sys.modules.pop(name, None)
    for registry in (MODELS, ROOT_MODELS):
        for name in ('FadingConv3d', 'TwoStageNet'):
            registry._module_dict.pop(name, None)


def test_the_kernel_is_what_the_page_says(example):
    layer = example[0].FadingConv3d(4, 6, (5, 3, 2), groups=2).double()
    torch.nn.init.uniform_(layer.fade, .2, .9)
    kernel = layer.kernel()
    assert kernel.shape == (6, 2, 5, 3, 2)
    for o in range(6):
        for t in range(5):
            expected = layer.weight[o, :, 0] * layer.fade[o] ** abs(t - 2)
            torch.testing.assert_close(kernel[o, :, t], expected, rtol=0, atol=1e-15)
    with pytest.raises(ValueError, match='has no middle'):
        example[0].FadingConv3d(1, 1, 2)


def test_gradients(example):
    layer = example[0].FadingConv3d(2, 2, 3, padding=1).double()
    x = torch.randn(1, 2, 3, 3, 3, dtype=torch.float64, requires_grad=True)

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), parameters)), (x, ))

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


def test_the_config_trains_a_step_and_its_network_is_fused(example):
    recognizer = MODELS.build(example[1])
    samples = [ActionDataSample().set_gt_label(label) for label in (0, 3)]
    clips = torch.randn(2, 1, 3, 6, 16, 16)
    optimizer = torch.optim.SGD(recognizer.parameters(), .1)
    losses = []
    for _ in range(5):
        loss = recognizer(clips, samples, 'loss')['loss_cls']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    layers = [m for m in recognizer.modules() if type(m).__name__ == 'FadingConv3d']
    assert len(layers) == 2 and all((m.fade != .5).any() for m in layers)
    recognizer.eval()  # its norms have running statistics of five steps
    fused = switch_to_deploy(recognizer.backbone)
    assert not any(type(m).__name__ == 'FadingConv3d' for m in fused.modules())
    with torch.no_grad():
        torch.testing.assert_close(fused(clips[:, 0]), recognizer.backbone(clips[:, 0]), rtol=1e-5, atol=1e-5)


def test_2d_weights_start_it_as_the_2d_network(example, tmp_path):
    """In the middle of a still clip the 3D feature map is that of the same net with one frame per kernel."""
    torch.save({k: v.float() for k, v in random_resnet2d(18).items()}, tmp_path / 'r18.pth')
    options = dict(type='TemporalResNet3d', depth=18, base_channels=WIDTH, pretrained=str(tmp_path / 'r18.pth'))
    ours = MODELS.build(dict(options, temporal_cfg=dict(type='FadingConv3d')))
    flat = MODELS.build(dict(options, temporal_kernels=(1, 1, 1, 1, 1)))
    for model in (ours, flat):
        model.init_weights()
        model.eval()
    clip = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), flat(clip), rtol=1e-4, atol=1e-4)
