"""Where time and space are in what a layer of a network puts out: its feature map as (N, F, T, H, W).

A 3D convolution has (N, F, T, H, W), a 2D network's (N*T, F, H, W). Transformers have tokens or put the channels last,
and the number of axes does not tell: (N, T, H, W, F) read as (N, F, T, H, W) gives a map of something else without a
word. So layouts belong to backbones. A network of attention layers that none is known for is refused; to teach a new
one, write a function and register it:

>>> from tconv_mmaction.interpret.access.layouts import register_layout
>>> @register_layout('MyTransformer')  # the name of the backbone's class
... def my_tokens(backbone, name, output, clip_size):
...     if output.dim() != 3:  # tokens are (N, T*H*W, F); None is "this layer cannot be read"
...         return None
...     height, width = clip_size[3] // 16, clip_size[4] // 16
...     return output.unflatten(1, (-1, height, width)).permute(0, 4, 1, 2, 3)
"""
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn

# (backbone, name of the layer within it, its output, size (N, C, T, H, W) of the clip) -> (N, F, T, H, W) or None
Layout = Callable[[nn.Module, str, object, Sequence[int]], Optional[Tensor]]


class Known(NamedTuple):
    """What is known of a backbone: where time and space are, and whether it classifies by a class token."""
    layout: Layout
    class_token: bool = False


_KNOWN: Dict[str, Known] = {}


def register_layout(*class_names: str, class_token: bool = False) -> Callable[[Layout], Layout]:
    """Decorator: the layout of the layers of backbones whose class has one of these names.

    The function gets the backbone, the layer's name within it, the layer's output (a tensor, or the tuple that it
    returned) and the size (N, C, T, H, W) of the clip. It returns the map (N, F, T, H, W) by moving and reshaping
    axes only, for it is applied to gradients as well; or None for a layer that cannot be read. ``class_token`` says
    that the head sees one token only, so that the last layers' other tokens do not count.
    """

    def register(layout: Layout) -> Layout:
        _KNOWN.update({name: Known(layout, class_token) for name in class_names})
        return layout

    return register


def first_tensor(output) -> Optional[Tensor]:
    """The feature map in a layer's output: the tensor itself, or the first one of a tuple such as (y, state)."""
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def convolutional(backbone: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """(N, F, T, H, W), or (N*T, F, H, W) of a 2D network."""
    features, batch = first_tensor(output), clip_size[0]
    if features is None:
        return None
    if features.dim() == 4 and batch and features.size(0) % batch == 0:
        return features.unflatten(0, (batch, -1)).transpose(1, 2)
    return features if features.dim() == 5 and features.size(0) == batch else None


register_layout('UniFormer')(convolutional)  # its tokens live within blocks, which put out (N, F, T, H, W)


def _grid(tokens: Tensor, sizes: Sequence[int]) -> Tensor:
    """Tokens (N, T*H*W, F), time first -> (N, F, T, H, W)."""
    return tokens.unflatten(1, tuple(sizes)).permute(0, 4, 1, 2, 3)


@register_layout('SwinTransformer3D')
def swin(backbone: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """Channels last but in the patch embedding; what works on windows has fewer axes, and cannot be read."""
    features = first_tensor(output)
    if features is None or features.dim() != 5 or features.size(0) != clip_size[0]:
        return None
    if name.split('.')[0] in ('patch_embed', 'pos_drop'):
        return features if name != 'patch_embed.norm' else None
    return features.permute(0, 4, 1, 2, 3)


@register_layout('MViT', class_token=True)
def mvit(backbone: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """Blocks and attentions return tokens with their (T, H, W); a class token is in front of them."""
    if not isinstance(output, (tuple, list)) or len(output) != 2 or not isinstance(output[0], Tensor):
        return None
    tokens, sizes = output
    if tokens.dim() != 3 or tokens.size(0) != clip_size[0] or not hasattr(sizes, '__len__') or len(sizes) != 3:
        return None
    extra = tokens.size(1) - int(sizes[0]) * int(sizes[1]) * int(sizes[2])
    return _grid(tokens[:, extra:], [int(n) for n in sizes]) if extra in (0, 1) else None


@register_layout('VisionTransformer')
def vision_transformer(backbone: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """VideoMAE's: tokens (N, T/tubelet * H/patch * W/patch, F), without a class token."""
    features = first_tensor(output)
    if features is None or features.dim() != 3 or features.size(0) != clip_size[0]:
        return None
    height, width = (n // backbone.patch_size for n in clip_size[3:])
    if height * width == 0 or features.size(1) % (height * width) or features.size(1) > clip_size[2] * height * width:
        return None
    return _grid(features, (features.size(1) // (height * width), height, width))


@register_layout('TimeSformer', class_token=True)
def timesformer(backbone: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """Tokens (N, 1 + H*W*T, F), time last, behind a class token; 'space_only': (N*T, 1 + H*W, F)."""
    features, (batch, _, frames, height, width) = first_tensor(output), clip_size
    if features is None or features.dim() != 3 or not name.startswith('transformer_layers.'):
        return None
    patch = backbone.patch_embed.projection.kernel_size
    height, width = height // patch[0], width // patch[1]
    if backbone.attention_type == 'space_only':
        if features.shape[:2] != (batch * frames, 1 + height * width):
            return None
        return _grid(features[:, 1:].unflatten(0, (batch, frames)).flatten(1, 2), (frames, height, width))
    if features.shape[:2] != (batch, 1 + height * width * frames):
        return None
    return features[:, 1:].unflatten(1, (height, width, frames)).permute(0, 4, 3, 1, 2)


@register_layout('UniFormerV2', class_token=True)
def uniformer_v2(backbone: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """Tokens (1 + H*W, N*T, F) behind a class token of every frame; what is between its local blocks is not read."""
    features, batch = first_tensor(output), clip_size[0]
    if name == 'conv1':
        return features
    if features is None or features.dim() != 3 or not name.startswith('transformer.resblocks.'):
        return None
    patch, steps = backbone.conv1.kernel_size, backbone.transformer.T
    height, width = clip_size[3] // patch[1], clip_size[4] // patch[2]
    if features.shape[:2] != (1 + height * width, batch * steps):
        return None
    return features[1:].unflatten(0, (height, width)).unflatten(2, (batch, steps)).permute(2, 4, 3, 0, 1)


def _attends(network: nn.Module) -> bool:
    """Whether there are attention layers in it: then the number of axes says little."""
    return any(isinstance(m, nn.MultiheadAttention) or 'Attention' in type(m).__name__ and list(m.parameters())
               for m in network.modules())


def layout_of(model: nn.Module, name: str) -> Tuple[nn.Module, str, Optional[Known]]:
    """The backbone that a layer belongs to, the layer's name within it, and its layout; None for an unknown one."""
    parts, module = name.split('.'), model
    path = [(model, name)]
    for i, part in enumerate(parts):
        module = getattr(module, part, None) if not part.isdigit() else module[int(part)]
        if module is None:
            break
        path.append((module, '.'.join(parts[i + 1:])))
    for module, rest in path:
        if type(module).__name__ in _KNOWN:
            return module, rest, _KNOWN[type(module).__name__]
    backbone = getattr(model, 'backbone', model)
    return backbone, name, None if _attends(backbone) else Known(convolutional)


def feature_map(model: nn.Module, name: str, output, clip_size: Sequence[int]) -> Optional[Tensor]:
    """The output of the layer of that name as (N, F, T, H, W), or None if it cannot be read so."""
    backbone, within, known = layout_of(model, name)
    return None if known is None else known.layout(backbone, within, output, clip_size)
