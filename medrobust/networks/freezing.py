"""Holding a victim still while it is attacked or judged, and giving it back as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn, no_grad
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen(victim: object) -> Iterator[None]:
    """Hold a victim in eval mode, without weight gradients, and give it back as it was, also after an exception.

    It restores each submodule's mode, and each tensor's ``requires_grad``, ``grad`` and, for buffers, values. Only
    an ``nn.Module`` can be held so; any other victim has to be in eval mode already.
    """
    modules = list(victim.modules()) if isinstance(victim, nn.Module) else []
    training = [module for module in modules if module.training]
    parameters = [parameter for module in modules for parameter in module._parameters.values() if parameter is not None]
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in parameters]
    with no_grad():
        buffers = [
            (owner, name, buffer, None if buffer is None or buffer.is_inference() or still else buffer.clone())
            for owner in modules
            for still in (isinstance(owner, _BatchNorm),)  # in eval mode it does not touch its many small buffers
            for name, buffer in owner._buffers.items()
        ]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in modules:
            if module.training:
                module.training = False
        for module in training:
            module.training = True
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient
        with no_grad():
            for owner, name, buffer, values in buffers:
                if buffer is not None and values is not None:
                    buffer.copy_(values)
                if owner._buffers[name] is not buffer:
                    owner._buffers[name] = buffer
