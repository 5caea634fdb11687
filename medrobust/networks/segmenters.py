"""Segmenters: U-Net and its relatives from segmentation_models_pytorch, over any encoder of that library or of timm."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.networks.weight_files import adapted_input, check_weights, read_weights

ARCHITECTURES = {  # of which those of the same library are left out that need images of a certain size
    "unet": smp.Unet,
    "unet++": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "pspnet": smp.PSPNet,
    "deeplabv3": smp.DeepLabV3,
    "deeplabv3+": smp.DeepLabV3Plus,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
}
TIMM = "tu-"  # begins the names of timm's encoders
SETTLED = ("self", "encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "kwargs")
TRIAL = 64  # side of the image that shows which layers a network uses
HEADS = ("fc.", "_fc.", "classifier.", "head.", "last_linear.")  # of the classifiers that encoders come from


class SegmentationNetwork(nn.Module):
    """Encoder, decoder and head, which map normalised images ``(N, C, H, W)`` to logits ``(N, K, H, W)``.

    Sides that the encoder's stride does not divide are padded with zeros on both sides, and the logits cropped: H and
    W are any. A zero of normalised images is their mean, and what the convolutions themselves see beyond the border.

    Args:
        model: The network as segmentation_models_pytorch builds it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = model.encoder, model.decoder, model.segmentation_head
        self.stride = int(model.encoder.output_stride)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K, H, W)``."""
        height, width = images.shape[-2:]
        down, right = -height % self.stride, -width % self.stride
        top, left = down // 2, right // 2
        if down or right:
            images = functional.pad(images, (left, right - left, top, down - top))
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(images)))
        return logits[..., top : top + height, left : left + width] if down or right else logits


def build_segmenter(
    encoder: str,
    num_classes: int,
    architecture: str = "unet",
    channels: int = 1,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> SegmentationNetwork:
    """Build a network that maps normalised images ``(N, C, H, W)`` to logits ``(N, K, H, W)``, for any H and W.

    Args:
        encoder: Name of an encoder of segmentation_models_pytorch, such as ``resnet18``, or of a timm network; a prefix
            ``tu-`` takes timm's where both have the name.
        num_classes: Number of labels K of a pixel, at least 2, the background among them.
        architecture: ``unet`` (Ronneberger et al., MICCAI 2015), ``unet++``, ``manet``, ``linknet``, ``fpn``,
            ``pspnet``, ``deeplabv3``, ``deeplabv3+``, ``upernet`` or ``segformer``.
        channels: Number of channels C of the images; the first convolution of pretrained weights is adapted to it.
        weights: ``hub`` downloads the encoder's weights, a path reads a local file, None starts from random weights.
            A file holds the encoder as the library or timm has it, or the whole network; a checkpoint of MedRobust may
            be of a segmenter or of a classifier with that backbone. Of classifiers the classifier's own weights are
            ignored, and so is the head of a network with another number of labels.
        options: Further arguments of the architecture, such as ``decoder_channels``, or of timm's network, such as
            ``pad_type: same``.

    Raises:
        ValueError: An argument is out of range, the encoder or the file does not exist, the hub cannot be reached, or
            the file does not hold weights of the network.
    """
    if num_classes < 2:
        raise ValueError(
            f"num_classes counts the labels of a pixel with the background and is at least 2, got {num_classes}"
        )
    if channels < 1:
        raise ValueError(f"channels counts the channels of the images and is at least 1, got {channels}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture is one of {', '.join(map(repr, ARCHITECTURES))}, got {architecture!r}")
    if weights is not None and weights != "hub" and not Path(weights).is_file():
        raise ValueError(f"weights is 'hub', a file or None, and there is no file {weights}")
    name = _encoder_name(encoder)
    settings = {"in_channels": channels, "classes": num_classes, **_checked_options(name, architecture, options or {})}
    network = _built(architecture, name, None, settings)
    if weights == "hub":
        network = _downloaded(architecture, name, settings)
    unused = _without_unused(network, channels)
    if weights is not None and weights != "hub":
        _load_weights(
            network, Path(weights), name, unused | _of_classifier(name, _of_timm(architecture, options or {}))
        )
    return network


def _encoder_name(encoder: str) -> str:
    """The name by which the library knows an encoder.

    Raises:
        ValueError: Neither the library nor timm has it.
    """
    if encoder in smp.encoders.encoders:
        return encoder
    plain = encoder.removeprefix(TIMM)
    if timm.is_model(plain.split(".")[0]):
        return TIMM + plain
    known = [*smp.encoders.encoders, *timm.list_models()]
    near = ", ".join([one for one in known if one.startswith(plain[:5])][:5]) or "none"
    raise ValueError(f"neither segmentation_models_pytorch nor timm has an encoder {encoder!r}; similar names: {near}")


def _checked_options(encoder: str, architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, if the architecture takes them, or timm's network may.

    Raises:
        ValueError: It does not take one of them; the library would ignore it, or return other outputs than logits.
    """
    for option in options:
        if option in SETTLED or not (option in _taken(architecture) or encoder.startswith(TIMM)):
            raise ValueError(
                f"{architecture} over {encoder} does not take the option {option!r}, but "
                f"{', '.join(_taken(architecture))}"
            )
    return dict(options)


def _taken(architecture: str) -> list[str]:
    """Names of the options that an architecture itself takes."""
    return [name for name in inspect.signature(ARCHITECTURES[architecture]).parameters if name not in SETTLED]


def _built(architecture: str, encoder: str, weights: Any, settings: Mapping[str, Any]) -> SegmentationNetwork:
    """The network.

    Raises:
        ValueError: It does not take the options.
    """
    try:
        return SegmentationNetwork(ARCHITECTURES[architecture](encoder, encoder_weights=weights, **settings))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        if weights is not None:
            raise
        given = {name: value for name, value in settings.items() if name not in SETTLED}
        why = " ".join(str(error).split())
        raise ValueError(f"{architecture} over {encoder} cannot be built with the options {given}: {why}") from error


def _downloaded(architecture: str, encoder: str, settings: Mapping[str, Any]) -> SegmentationNetwork:
    """The network with the encoder's weights from the hub.

    Raises:
        ValueError: They could not be downloaded, or there are none.
    """
    if encoder.startswith(TIMM):
        weights: Any = True
    else:
        published = list(smp.encoders.encoders[encoder]["pretrained_settings"])
        weights = "imagenet" if "imagenet" in published else next(iter(published), "imagenet")
    try:
        return _built(architecture, encoder, weights, settings)
    except Exception as error:
        raise ValueError(
            f"the weights of {encoder} could not be downloaded from the hub ({type(error).__name__}); "
            "give a local file as weights, or null for random ones"
        ) from error


def _without_unused(network: SegmentationNetwork, channels: int) -> set[str]:
    """Take out the layers that no output depends on, such as the last stages of an encoder of smaller depth.

    They would hold features of no image, and processes that train together would wait for their gradients.

    Returns:
        Plain names of the encoder's tensors that have gone.
    """
    called: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda one, _: called.add(one)) for module in network.modules()]
    parameters = dict(network.named_parameters())
    before = set(network.encoder.state_dict())
    network.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = network(torch.zeros(1, channels, TRIAL, TRIAL))
            gradients = torch.autograd.grad(logits.sum(), list(parameters.values()), allow_unused=True)
    except Exception:  # an encoder for images of another size
        return set()
    finally:
        network.train()
        for handle in handles:
            handle.remove()
    used = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    gone: tuple[str, ...] = ()
    for name, module in list(network.named_modules()):
        if name.startswith(gone):
            continue
        inside = [own for own in parameters if own.startswith(f"{name}.")]
        if name and inside and not used & set(inside) and called.isdisjoint(module.modules()):
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
            gone = (*gone, f"{name}.")
    return {_plain(name) for name in before - set(network.encoder.state_dict())}


def _load_weights(network: SegmentationNetwork, file: Path, encoder: str, ignored: set[str]) -> None:
    """Load the weights of the whole network, or of its encoder, from a safetensors or torch file.

    Args:
        network: The network.
        file: The file.
        encoder: Name of the encoder, for messages.
        ignored: Plain names of tensors that the file may have besides those of the encoder.

    Raises:
        ValueError: The file cannot be read, or its tensors are not those of the network.
    """
    state = read_weights(file)
    if any(name.startswith("network.") for name in state):  # MedRobust's checkpoints
        state = {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}
    first = next(name for name, module in network.encoder.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    expected = {_plain(name): name for name in network.encoder.state_dict()}
    if any(name.startswith("decoder.") for name in state):
        gone = {f"encoder_{name}" for name in ignored - set(expected)}
        state = {
            name: value
            for name, value in state.items()
            if _plain(name.replace("encoder.model.", "encoder.")) not in gone
        }
        _load(network, _without_other_head(network, state), file, f"this network over {encoder}", f"encoder.{first}")
        return
    state = {name.removeprefix("encoder."): value for name, value in state.items()}
    found = {
        expected.get(_plain(name), name): value
        for name, value in state.items()
        if _plain(name) in expected or not (_plain(name) in ignored or name.startswith(HEADS))
    }
    _load(network.encoder, found, file, encoder, first)


def _load(network: nn.Module, state: dict[str, Tensor], file: Path, what: str, first: str) -> None:
    """Load tensors into a network, its first convolution adapted; those of a head may be missing."""
    expected = network.state_dict()
    if first in state and state[first].ndim == 4 and state[first].shape[1] != expected[first].shape[1]:
        state = {**state, first: adapted_input(state[first], expected[first].shape[1], first, file)}
    wanted = {
        name: value for name, value in expected.items() if name in state or not name.startswith("segmentation_head.")
    }
    check_weights(wanted, state, file, what)
    nn.Module.load_state_dict(network, state, strict=False)


def _without_other_head(network: SegmentationNetwork, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a whole network, without a head for another number of labels."""
    own = network.state_dict()
    head = [name for name in state if name.startswith("segmentation_head.")]
    if all(name in own and own[name].shape == state[name].shape for name in head):
        return state
    return {name: value for name, value in state.items() if name not in head}


def _plain(name: str) -> str:
    """The name of a tensor without what wraps timm's stages: ``stages_0_x`` for ``model.stages_0.x``."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def _of_timm(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that timm's network is given."""
    return {name: value for name, value in options.items() if name not in _taken(architecture)}


def _of_classifier(encoder: str, options: Mapping[str, Any]) -> set[str]:
    """Plain names of all tensors of the timm network that an encoder is the beginning of; none of other encoders.

    Args:
        encoder: Name of the encoder.
        options: Those of timm's network.
    """
    if not encoder.startswith(TIMM):
        return set()
    with torch.device("meta"):
        whole = timm.create_model(encoder.removeprefix(TIMM), **options)
    return {_plain(name) for name in whole.state_dict()}
