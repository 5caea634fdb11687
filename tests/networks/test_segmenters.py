"""Segmenters: exact shapes for any side, weights from files of several kinds, and one-sentence refusals."""

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medrobust.networks.classifiers import build_classifier
from medrobust.networks.deployment import deployment_copy
from medrobust.networks.segmenters import ARCHITECTURES, SegmentationNetwork, build_segmenter

SMALL = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
WEIGHTS = Path(__file__).resolve().parents[3] / "shared/data/weights"


def unet(encoder: str = "resnet18", num_classes: int = 2, **options: Any) -> SegmentationNetwork:
    options = {"channels": 1, "options": SMALL} | options
    return build_segmenter(encoder, num_classes, **options).eval()


def refusal(*arguments: Any, **options: Any) -> str:
    """The sentence with which a request is refused."""
    with pytest.raises(ValueError) as caught:
        build_segmenter(*arguments, **options)
    message = str(caught.value)
    assert len(message) < 500 and "\n" not in message, message
    return message


class Sum(nn.Module):
    """An encoder of stride 32 that keeps its images, as decoder and head keep what they are given."""

    output_stride = 32

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.segmentation_head = Sum(), nn.Identity(), nn.Identity()


@pytest.mark.parametrize(("sides", "padded"), [((100, 33), (128, 64)), ((16, 32), (32, 32)), ((64, 96), (64, 96))])
def test_sides_are_padded_with_zeros_and_the_logits_cropped(sides: tuple[int, int], padded: tuple[int, int]) -> None:
    network, images = SegmentationNetwork(Parts()), torch.rand(2, 1, *sides, requires_grad=True)
    logits = network(images)
    assert network.encoder.seen.shape == (2, 1, *padded)
    torch.testing.assert_close(network.encoder.seen.sum(), images.sum())  # nothing is added, nothing is lost
    assert torch.equal(logits, images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert torch.equal(gradient, torch.ones_like(images))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_gives_a_logit_for_each_pixel_and_class(architecture: str) -> None:
    network = build_segmenter("resnet18", 3, architecture, channels=2).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 2, 40, 40)).shape == (1, 3, 40, 40)


@pytest.mark.parametrize("encoder", ["resnet10t", "tu-resnet18", "convnext_atto", "mobilenetv2_050"])
def test_encoders_of_timm_go_by_their_names(encoder: str) -> None:
    network = build_segmenter(encoder, 2, options={"decoder_channels": [16, 8, 8, 8, 8]}).eval()
    assert type(network.encoder).__name__ == "TimmUniversalEncoder"
    with torch.no_grad():
        assert network(torch.rand(1, 1, 32, 32)).shape == (1, 2, 32, 32)


def test_all_batchnorms_are_folded_and_the_copy_is_equal() -> None:
    network = unet()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    images = torch.rand(2, 1, 40, 40)
    copy, folded = deployment_copy(network, images)
    assert folded == sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()) == 16
    with torch.no_grad():
        torch.testing.assert_close(copy(images), network(images), rtol=1e-4, atol=1e-5)


def test_stages_that_no_output_depends_on_are_taken_out(tmp_path: Path) -> None:
    network, images = unet(), torch.rand(1, 1, 32, 32)  # of depth 3: the first convolution and two stages
    assert not any(name.startswith(("encoder.layer3.", "encoder.layer4.")) for name, _ in network.named_modules())
    gradients = torch.autograd.grad(network(images).sum(), list(network.parameters()), allow_unused=True)
    assert all(gradient is not None for gradient in gradients)

    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "all.pt")
    held = torch.load(tmp_path / "all.pt", weights_only=True)
    assert torch.equal(
        unet(weights=str(tmp_path / "all.pt")).encoder.layer2[0].conv1.weight, held["layer2.0.conv1.weight"]
    )
    torch.save(
        smp.Unet("resnet18", 3, None, decoder_channels=[16, 8, 8], in_channels=1, classes=2).state_dict(),
        tmp_path / "whole.pt",
    )
    held = torch.load(tmp_path / "whole.pt", weights_only=True)
    loaded = unet(weights=str(tmp_path / "whole.pt")).state_dict()
    assert all(torch.equal(value, held[name]) for name, value in loaded.items())


@pytest.mark.parametrize("encoder", ["resnet18", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_file_of_a_classifier_starts_the_encoder(encoder: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    published, file = timm.create_model(encoder, num_classes=7).eval(), tmp_path / f"weights.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(dict(published.state_dict()), file)
    network = build_segmenter(encoder, 2, channels=3, weights=str(file)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            network.encoder(images)[-1], published.forward_features(images), rtol=1e-3, atol=1e-4
        )


def test_the_first_convolution_is_summed_over_the_colours_for_grey_images(tmp_path: Path) -> None:
    published = timm.create_model("resnet18").state_dict()
    torch.save(published, tmp_path / "resnet.pt")
    network = unet(weights=str(tmp_path / "resnet.pt"), options={})
    torch.testing.assert_close(network.encoder.conv1.weight, published["conv1.weight"].sum(1, keepdim=True))


def test_a_whole_network_is_loaded_without_a_head_for_other_labels(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before, file = unet(num_classes=3), tmp_path / "unet.ckpt"
    torch.save({"state_dict": {f"network.{name}": value for name, value in before.state_dict().items()}}, file)
    images = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(unet(num_classes=3, weights=str(file))(images), before(images))
    other = unet(num_classes=2, weights=str(file)).state_dict()
    for name, value in before.state_dict().items():
        assert name.startswith("segmentation_head.") or torch.equal(other[name], value), name


def test_a_classifier_that_medrobust_trained_starts_the_encoder(tmp_path: Path) -> None:
    classifier = build_classifier("resnet18", 2, "dense", channels=1)
    held = {f"network.{name}": value for name, value in classifier.state_dict().items()} | {"mean": torch.zeros(1)}
    torch.save({"state_dict": held}, tmp_path / "best.ckpt")
    network = unet(weights=str(tmp_path / "best.ckpt"), options={})
    assert torch.equal(network.encoder.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


@pytest.mark.parametrize("encoder", ["resnet18", "resnet10t"])
def test_weights_of_another_network_are_refused(encoder: str, tmp_path: Path) -> None:
    file = tmp_path / "other.pt"
    torch.save(timm.create_model("resnet34").state_dict(), file)
    assert "does not hold the weights of" in refusal(encoder, 2, weights=str(file))
    torch.save(unet(encoder).state_dict(), file)
    assert "tensors are missing" in refusal(encoder, 2, weights=str(file))  # of another depth
    file.write_text("these are no weights")
    assert "is not a readable safetensors or torch weight file" in refusal(encoder, 2, weights=str(file))
    assert "there is no file nowhere.pt" in refusal(encoder, 2, weights="nowhere.pt")


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", unreachable)
    monkeypatch.setattr("timm.models._builder.load_pretrained", unreachable)
    for encoder in ("resnet18", "tu-resnet18"):
        assert "could not be downloaded from the hub (ConnectionError); give a local file" in refusal(
            encoder, 2, weights="hub"
        )


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("resnet18", 1), {}, "at least 2, got 1"),
        (("resnet18", 2), {"channels": 0}, "at least 1, got 0"),
        (("resnet18", 2), {"architecture": "u-net"}, "architecture is one of 'unet', 'unet++'"),
        (("resnet19", 2), {}, "neither segmentation_models_pytorch nor timm has an encoder 'resnet19'; similar names"),
        (("resnet18", 2), {"options": {"pad_type": "same"}}, "does not take the option 'pad_type'"),
        (("resnet18", 2), {"options": {"activation": "sigmoid"}}, "does not take the option 'activation'"),
        (("tu-resnet18", 2), {"options": {"colour": "red"}}, "cannot be built with the options {'colour': 'red'}"),
        (("resnet18", 2), {"options": {"encoder_depth": 4}}, "Model depth is 4"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(arguments: Any, options: Any, words: str) -> None:
    assert words in refusal(*arguments, **options)


@pytest.mark.real
def test_published_weights_start_an_encoder_that_pads_as_they_were_trained() -> None:
    files = sorted(WEIGHTS.glob("mobilenetv2_100*.safetensors"))
    if not files:
        pytest.skip("there are no weights beside the checkout")
    options = {"pad_type": "same"}
    network = build_segmenter("tu-mobilenetv2_100", 2, channels=3, weights=str(files[0]), options=options).eval()
    classifier = build_classifier("mobilenetv2_100", 2, weights=str(files[0]), options=options).eval()
    images = torch.rand(1, 3, 100, 100)
    with torch.no_grad():
        padded = nn.functional.pad(images, (14, 14, 14, 14))
        torch.testing.assert_close(
            network.encoder(padded)[-1], classifier.blocks(classifier.bn1(classifier.conv_stem(padded)))
        )
        assert network(images).shape == (1, 2, 100, 100)
