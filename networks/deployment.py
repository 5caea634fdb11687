"""Deployment copies: a network frozen, with BatchNorm folded into its convolutions, in channels_last."""

import copy
import warnings
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.ops import FrozenBatchNorm2d

TOLERANCE = 1e-3  # of the outputs' largest value and of the gradients' length
# exactly these: a subclass may do something to its weight, such as standardising it, that undoes the folding
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d, FrozenBatchNorm2d)


class ChannelsLast(nn.Module):
    """A network that takes its images in the channels_last memory format and always stays in eval mode."""

    def __init__(self, network: nn.Module) -> None:
        """Convert a network's weights to that format."""
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.train(False)

    def forward(self, images: Tensor) -> Any:
        """Outputs of the network for images ``(N, C, H, W)``."""
        return self.network(images.contiguous(memory_format=torch.channels_last))

    def train(self, mode: bool = True) -> "ChannelsLast":
        """Stay in eval mode: a network without its BatchNorm must not be trained."""
        return super().train(False)


def deployment_copy(network: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """Copy a network for inference: eval mode, no weight gradients, BatchNorm folded, channels_last.

    Which BatchNorm follows which convolution is read off one forward. A pair is folded if the very tensor that the
    convolution returned came into the BatchNorm and went nowhere else, and if each of the two was called once.
    The copy's outputs and gradients with respect to the images are compared with the network's; where they differ,
    the folding is given up, and then channels_last too, with a warning.

    Args:
        network: The network; it is left alone. Its forward must not depend on chance.
        images: A small batch ``(N, C, H, W)`` of the size that it will see, N >= 1, on the network's device.

    Returns:
        The copy and the number of pairs folded.
    """
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        images = images.clone()
        plain = copy.deepcopy(network).eval().requires_grad_(False)
        expected = _outputs_and_gradient(plain, images)
        folded = copy.deepcopy(plain)
        pairs = _foldable_pairs(folded, images)
        for convolution, norm in pairs:
            _fold(folded, convolution, norm)
        for candidate, number in ((folded, len(pairs)), (copy.deepcopy(plain), 0)):
            deployed = ChannelsLast(candidate)
            error = _largest_error(expected, _outputs_and_gradient(deployed, images))
            if error <= TOLERANCE:
                return deployed, number
            change = f"folding {number} BatchNorms" if number else "channels_last"
            warnings.warn(f"{change} changed outputs or gradients by {error:.1e} and is not used", stacklevel=2)
    return plain, 0


def _outputs_and_gradient(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Floating-point outputs, and the images' gradient of a fixed random combination of them."""
    fixed = torch.Generator().manual_seed(0)
    # TF32 rounds to 1e-3 by itself, differently in each memory format
    with torch.enable_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        variable = images.detach().requires_grad_()
        leaves = [leaf for leaf in tree_leaves(network(variable)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in leaves if leaf.is_floating_point()]
        followed = [output for output in outputs if output.requires_grad]
        directions = [torch.randn(output.shape, generator=fixed).to(output) for output in followed]
        gradient = torch.autograd.grad(followed, variable, directions) if followed else ()
    return [output.detach() for output in outputs] + list(gradient)


def _largest_error(expected: list[Tensor], got: list[Tensor]) -> float:
    """Largest difference, relative to the expected tensors' norms; infinite where shapes differ."""
    if [tensor.shape for tensor in expected] != [tensor.shape for tensor in got]:
        return float("inf")
    errors = [0.0]
    for wanted, came in zip(expected, got, strict=True):
        error, length = (came - wanted).double().norm(), wanted.double().norm()
        errors.append(float(error / length) if length > 0 else float(error))
    return float("inf") if any(error != error for error in errors) else max(errors)


class _Watch(TorchDispatchMode):
    """Sees which tensors go into operations outside of a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[nn.Module, Tensor]] = {}  # keeps the tensor alive, so that its id stays its own
        self.inside: nn.Module | None = None
        self.elsewhere: set[nn.Module] = set()

    def note_uses(self, values: Any) -> None:
        """Note the convolutions whose outputs are among the values."""
        self.elsewhere.update(self.made[id(leaf)][0] for leaf in tree_leaves(values) if id(leaf) in self.made)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside is None:
            self.note_uses((args, kwargs))
        return func(*args, **(kwargs or {}))


def _foldable_pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    watch, calls, found, handles = _Watch(), dict[nn.Module, int](), list[tuple[nn.Module, nn.Module]](), []

    def after_convolution(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        watch.made[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        watch.inside = module
        if inputs and id(inputs[0]) in watch.made:
            found.append((watch.made[id(inputs[0])][0], module))

    def after_norm(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        watch.inside = None

    for module in network.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            continue  # weight_norm and its like compute the weight anew
        if type(module) in CONVOLUTIONS:
            handles.append(module.register_forward_hook(after_convolution))
        elif type(module) in NORMS and module.running_mean is not None:
            handles += [module.register_forward_pre_hook(before_norm), module.register_forward_hook(after_norm)]
    try:
        with torch.no_grad(), watch:
            watch.note_uses(network(images))
    finally:
        for handle in handles:
            handle.remove()
    # a tensor that came into two norms makes two pairs of one convolution
    shared = {pair[0] for pair in found if sum(pair[0] is other[0] for other in found) > 1}
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1 and not {pair[0]} & (watch.elsewhere | shared)]


def _fold(network: nn.Module, convolution: Any, norm: Any) -> None:
    """Scale the convolution by w / sqrt(var + eps), shift its bias, and leave of the norm what follows it."""
    scale = (norm.running_var.double() + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight.double())
    bias = 0.0 if convolution.bias is None else convolution.bias.double()
    shift = (bias - norm.running_mean.double()) * scale + (0.0 if norm.bias is None else norm.bias.double())
    weight = convolution.weight
    convolution.weight = nn.Parameter((weight.double() * scale.view(-1, 1, 1, 1)).to(weight), requires_grad=False)
    convolution.bias = nn.Parameter(shift.to(weight), requires_grad=False)
    rest = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is norm:
                setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())
