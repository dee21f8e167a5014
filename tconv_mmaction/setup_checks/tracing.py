"""Keys of MMEngine that rewrite or compile the network: whether it can be, said before data are loaded."""
import os
from operator import attrgetter
from typing import Any, List, Tuple

from torch import nn

from .problems import Problems, explained


def _named(names: Any, model: nn.Module, key: str, problems: Problems) -> List[Tuple[str, nn.Module]]:
    """The modules of these names; a name that there is not becomes an entry."""
    found = []
    for name in [names] if isinstance(names, str) else names or ():
        try:
            found.append((name, attrgetter(name)(model)))
        except AttributeError:
            children = [child for child, _ in model.named_children()]
            problems.add(key, f'the model has no module {name!r}. Its parts are {children}.')
    return found


def check_checkpointed(names: Any, model: nn.Module, problems: Problems) -> None:
    """``activation_checkpointing`` names modules, whose forward is computed again in the backward pass."""
    _named(names, model, 'activation_checkpointing', problems)


def check_efficient_eval(names: Any, model: nn.Module, problems: Problems) -> None:
    """``efficient_conv_bn_eval`` traces modules with torch.fx, which follows no decision that depends on a tensor.

    Args:
        names: dotted names of modules, a string or a list.
        model: on the meta device; it is left as it is.
        problems: what cannot be traced goes there.
    """
    if not names:
        return
    from mmengine.model.efficient_conv_bn_eval import efficient_conv_bn_eval_graph_transform
    from torch import fx
    key = 'efficient_conv_bn_eval'
    for name, module in _named(names, model, key, problems):
        way = ('Take the key out; in a test, tools/deploy/reparameterize_model.py fuses convolutions and norms once.')
        try:
            traced = fx.symbolic_trace(module)
        except Exception as error:  # whatever the code of a layer does with a tensor that is none
            own = sorted({type(part).__name__ for part in module.modules()
                          if type(part).__module__.startswith('tconv_mmaction.layers')})
            whose = f', which has {", ".join(own)}' if own else ''
            problems.add(key, f'{name}{whose}, cannot be traced with torch.fx: {explained(error).splitlines()[0]} '
                         f'{way}')
            continue
        try:
            efficient_conv_bn_eval_graph_transform(traced)
        except Exception as error:
            problems.add(key, f'{name} can be traced, but not changed: {explained(error).splitlines()[0]} {way}')


def say_compile(compile_option: Any, model: nn.Module, problems: Problems) -> None:
    """``compile``: a first step of minutes in silence looks like a hang."""
    if not compile_option or isinstance(compile_option, dict) and compile_option.get('disable'):
        return
    count = sum(type(part).__module__.startswith('tconv_mmaction.layers') for part in model.modules())
    problems.warn('compile', f'torch.compile works through the whole network in the first step and again where a shape '
                  f'changes ({count} layers here are ours), on {os.cpu_count()} CPU core(s): docs/recipes.md has '
                  'measured times. CompileProgressHook says every 30 s that it is at work. Without it: --cfg-options '
                  'compile=False.')
