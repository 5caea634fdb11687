"""Deployment copies: a network frozen, with BatchNorm folded into its convolutions, in channels_last."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torchvision.ops import FrozenBatchNorm2d

from medrobust.networks.model_outputs import tensor_in

TOLERANCE = 1e-3  # relative to the norms of outputs and gradients
DITHER = 1e-3  # of the compared images, which are normalised
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # but no subclasses, which may standardise their weight and so undo the folding
NORMS = (nn.BatchNorm2d, BatchNormAct2d, FrozenBatchNorm2d)


class DeployedNetwork(nn.Module):
    """A network that stays in eval mode, since it cannot be trained without its norms.

    Args:
        network: The network; its layers keep their names for taps.
        folded: Names of the convolutions into which a norm was folded, and whose outputs have therefore changed.
    """

    def __init__(self, network: nn.Module, folded: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.folded = network, tuple(folded)
        self.train(False)

    def train(self, mode: bool = True) -> "DeployedNetwork":
        """Stay in eval mode."""
        return super().train(False)


class ChannelsLast(DeployedNetwork):
    """A network in the channels_last memory format."""

    def __init__(self, network: nn.Module, folded: Sequence[str] = ()) -> None:
        super().__init__(network.to(memory_format=torch.channels_last), folded)

    def forward(self, images: Tensor, *arguments: Any, **options: Any) -> Any:
        """Outputs of the network for images ``(N, C, H, W)``, and whatever else it takes."""
        return self.network(images.contiguous(memory_format=torch.channels_last), *arguments, **options)


class BFloat16(DeployedNetwork):
    """A network whose forward pass runs in bfloat16 where autocast allows it, and whose outputs are float32."""

    def forward(self, images: Tensor, *arguments: Any, **options: Any) -> Any:
        """Outputs of the network for images ``(N, C, H, W)``, and whatever else it takes."""
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            outputs = self.network(images, *arguments, **options)
        return tree_map(
            lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, outputs
        )


def deployment_copy(network: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """Copy a network for inference: eval mode, no weight gradients, BatchNorm folded, channels_last.

    One forward pass shows which BatchNorm follows which convolution. A pair is folded if the BatchNorm reads the very
    tensor that the convolution returned, nothing else reads it, and each of the two is called once. The outputs of the
    copy and its gradients with respect to the images are compared with those of the network in float64, where no
    rounding moves a value across the kink of a ReLU. If they differ, the folding is given up with a warning, and if
    they still differ, so is channels_last. Noise is added to the images that are compared: where an image is constant,
    as where it is overexposed, max pooling has ties, which rounding breaks in one way or another.

    What a network returns need not be comparable: of boxes, rounding may find one more. Such a network names in its
    ``fixed_outputs`` the arguments with which it returns differentiable tensors of fixed shapes; these are compared.

    Args:
        network: The network, which is not changed. Its forward pass must not be random.
        images: A small batch ``(N, C, H, W)``, N >= 1, of the image size in use, on the device of the network.

    Returns:
        The copy and the number of folded pairs.
    """
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False):
        images = images.detach().clone()
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        images = images + DITHER * noise.to(images)
        plain, options = copy.deepcopy(network).eval().requires_grad_(False), fixed_outputs(network)
        reference, inputs = copy.deepcopy(plain).double(), images.double()
        try:
            expected = _outputs_and_gradients(reference, inputs, options)
        except RuntimeError:  # the network runs only in its own precision
            expected = _outputs_and_gradients(reference := plain, inputs := images, options)
        pairs = _foldable_pairs(reference, inputs, options)
        for folds in (pairs, []) if pairs else ([],):
            trial = ChannelsLast(_folded(reference, folds))
            error = _largest_error(expected, _outputs_and_gradients(trial, inputs, options))
            if error <= TOLERANCE:
                return ChannelsLast(_folded(plain, folds), [first for first, _ in folds]), len(folds)
            change = f"folding {len(folds)} BatchNorms" if folds else "channels_last"
            warnings.warn(f"{change} changed outputs or gradients by {error:.1e} and is not used", stacklevel=2)
        return plain, 0


def fixed_outputs(network: nn.Module) -> Mapping[str, Any]:
    """Arguments besides the images with which a network returns what can be compared; empty for most."""
    options: Mapping[str, Any] = getattr(network, "fixed_outputs", {})
    return options


def _outputs_and_gradients(network: nn.Module, images: Tensor, options: Mapping[str, Any]) -> list[Tensor]:
    """Floating-point outputs, and the gradient of a fixed random combination of them with respect to the images."""
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        variable = images.detach().requires_grad_()
        returned = network(variable, **options)
        tensors = [leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor)]
        if not tensors and (found := tensor_in(returned)) is not None:
            tensors = [found]  # an object, such as a dataclass, is a leaf itself
        outputs = [tensor for tensor in tensors if tensor.is_floating_point()]
        if not outputs:
            raise ValueError(f"the outputs of a {type(network).__name__} cannot be compared")
        differentiable = [output for output in outputs if output.requires_grad]
        weights = [torch.randn(output.shape, generator=generator).to(output) for output in differentiable]
        gradients = torch.autograd.grad(differentiable, variable, weights) if differentiable else ()
    return [output.detach() for output in outputs] + list(gradients)


def _largest_error(expected: list[Tensor], computed: list[Tensor]) -> float:
    """Largest norm of a difference relative to the norm of the expected tensor; NaN if any is NaN."""
    errors = [(b - a).norm() / a.norm().clamp(min=1e-30) for a, b in zip(expected, computed, strict=True)]
    return float(torch.stack(errors).amax()) if errors else 0.0


class _Reads(TorchDispatchMode):
    """Notes each read of a convolution's output, by the name of the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[str, Tensor]] = {}  # keeps each tensor alive, so that no other gets its id
        self.names: list[str] = []

    def note(self, values: Any) -> None:
        self.names += [self.made[id(leaf)][0] for leaf in tree_leaves(values) if id(leaf) in self.made]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.note((args, kwargs))
        return func(*args, **(kwargs or {}))


def _foldable_pairs(network: nn.Module, images: Tensor, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names of the convolutions whose outputs are read exactly once, each with the name of the norm that reads it."""
    reads, calls, found, handles = _Reads(), list[str](), list[tuple[str, str]](), []

    def after_convolution(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls.append(names[module])
        reads.made[id(output)] = (names[module], output)

    def before_norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append(names[module])
        if inputs and id(inputs[0]) in reads.made:
            found.append((reads.made[id(inputs[0])][0], names[module]))

    names = {module: name for name, module in network.named_modules()}
    for module in names:
        if module._forward_hooks or module._forward_pre_hooks:
            continue  # such as those of weight_norm, which recompute the weight
        if type(module) in CONVOLUTIONS:
            handles.append(module.register_forward_hook(after_convolution))
        elif type(module) in NORMS and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad(), reads:
            reads.note(network(images, **options))
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if calls.count(pair[0]) == calls.count(pair[1]) == reads.names.count(pair[0]) == 1]


def _folded(network: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    """Copy in which the convolutions do the work of the norms; of a norm, only its dropout and activation remain."""
    network = copy.deepcopy(network)
    modules: dict[str, Any] = dict(network.named_modules())
    for convolution, norm in ((modules[first], modules[second]) for first, second in pairs):
        fused = fuse_conv_bn_eval(copy.deepcopy(convolution).double(), copy.deepcopy(norm).double())
        fused = fused.to(convolution.weight.dtype)  # only the result is rounded
        convolution.weight, convolution.bias = fused.weight, fused.bias
        rest = OrderedDict((name, getattr(norm, name)) for name in ("drop", "act") if hasattr(norm, name))
        for parent in network.modules():
            for name in [name for name, child in parent._modules.items() if child is norm]:
                parent._modules[name] = nn.Sequential(rest)
    return network
