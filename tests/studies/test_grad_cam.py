"""Grad-CAM against its definition on networks of one layer, and the column that it adds."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import FGSM
from medrobust.listeners import RecordJournal, Studies
from medrobust.metrics.concentration import top_overlap
from medrobust.networks import as_victim
from medrobust.results.records import read_journal
from medrobust.results.studied import read_studies
from medrobust.studies import GradCAM
from medrobust.studies.grad_cam import grad_cam
from tests import recording
from tests.in_memory import random_data

CHANNELS, CLASSES = 3, 2


class OneLayer(nn.Module):
    """A convolution, the mean over all places, and a linear classifier; the maps are laid out in three ways."""

    def __init__(self, layout: str = "first", inplace: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.convolution = nn.Conv2d(1, CHANNELS, 2, stride=2)
        self.maps = nn.Identity()
        self.activation = nn.ReLU(inplace=True) if inplace else nn.Identity()
        self.head = nn.Linear(CHANNELS, CLASSES)
        self.layout = layout
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.convolution(images)
        if self.layout == "first":
            return self.head(self.activation(self.maps(maps)).mean((2, 3)))
        if self.layout == "last":
            return self.head(self.maps(maps.permute(0, 2, 3, 1)).mean((1, 2)))
        tokens = torch.cat([torch.zeros(len(maps), 1, CHANNELS), maps.flatten(2).mT], 1)
        return self.head(self.maps(tokens)[:, 1:].mean(1))


@pytest.mark.parametrize("layout", ["first", "last", "tokens"])
def test_it_is_its_definition_on_one_layer(layout: str) -> None:
    """z_c = b_c + sum_k W_ck mean(A_k), so dz_c / dA_k = W_ck / 16, and the map is ReLU(sum_k W_ck A_k / 16)."""
    network = OneLayer(layout)
    images, classes = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 0, 1, 1])
    expected = torch.einsum("nk,nkhw->nhw", network.head.weight[classes], network.convolution(images)).relu() / 16
    found = grad_cam(as_victim(network), images, classes, "maps")
    assert expected.max() > 0 and not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_tokens_of_a_vision_transformer_are_the_places_of_their_patches() -> None:
    """By autograd alone: the class token is left out, and patch 4 r + c lies in row r and column c."""
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64).eval()
    nn.init.normal_(network.head.weight)
    images, classes, kept = torch.rand(2, 3, 64, 64), torch.tensor([2, 0]), []
    handle = network.blocks[11].norm1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    chosen = network(images).gather(1, classes[:, None]).sum()
    handle.remove()
    (gradients,) = torch.autograd.grad(chosen, kept)
    weights, tokens = gradients[:, 1:].mean(1), kept[0][:, 1:]
    expected = torch.einsum("nc,nlc->nl", weights, tokens).relu().view(2, 4, 4)
    found = grad_cam(as_victim(network), images, classes, "blocks.11.norm1")
    assert expected.max() > 0
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-6 * float(expected.max()))


def test_it_does_not_change_what_the_network_computes() -> None:
    network = OneLayer("tokens")
    images = torch.rand(2, 1, 8, 8)
    before = network(images)
    grad_cam(as_victim(network), images, torch.tensor([0, 1]), "maps")
    assert torch.equal(network(images), before) and not network.maps._forward_hooks


def test_a_layer_whose_output_is_changed_in_place_is_seen_as_it_leaves() -> None:
    network = OneLayer(inplace=True)
    images, classes = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])
    slopes = network.head.weight[classes][:, :, None, None] / 16
    leaving = {"maps": network.convolution(images), "activation": network.convolution(images).relu()}
    gradients = {"maps": slopes * (leaving["maps"] > 0), "activation": slopes.expand_as(leaving["maps"])}
    for layer, maps in leaving.items():
        expected = (gradients[layer].mean((2, 3), keepdim=True) * maps).sum(1).relu()
        torch.testing.assert_close(grad_cam(as_victim(network), images, classes, layer), expected.detach())


def test_a_layer_that_is_not_spread_over_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Grad-CAM needs a layer whose output is spread .* 'head' gives \(2, 2\)"):
        grad_cam(as_victim(OneLayer()), torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), "head")


def study(folder: Path, batch_size: int = 4, **options: Any) -> Any:
    torch.manual_seed(0)
    listeners = [
        RecordJournal(str(folder), "tiny", seed=1),
        Studies(str(folder), {"cam": GradCAM(images=3, **options)}),
    ]
    data = random_data(9, batch_size=batch_size)
    return recording.evaluate(as_victim(OneLayer()), data, {"fgsm": FGSM(epsilon=0.2)}, *listeners, controls=True)


def test_the_overlap_is_a_column_of_all_images(tmp_path: Path) -> None:
    recorder = study(tmp_path)
    records = read_journal(tmp_path)
    assert len(records) == 18 and "grad_cam_overlap" in records.columns
    network = OneLayer()
    for batch in recorder.batches:
        maps = []
        for images in (batch.clean, batch.adversarial):
            classes = network(images).argmax(1)
            small = torch.einsum("nk,nkhw->nhw", network.head.weight[classes], network.convolution(images)).relu()
            maps.append(functional.interpolate(small[:, None], (8, 8), mode="bilinear")[:, 0].detach())
        expected = top_overlap(*maps)
        torch.testing.assert_close(batch.columns["grad_cam_overlap"], expected, equal_nan=True)
    (studied,) = read_studies(tmp_path)
    kept = {one.id: float(one.arrays["overlap"]) for found in studied.attacked.values() for one in found}
    assert len(studied.attacked) == 2 and len(kept) == 3
    assert {one.arrays["map"].shape for one in studied.clean} == {(8, 8)}
    assert {tuple(one.arrays["cells"]) for one in studied.clean} == {(4, 4)}
    assert all(one.arrays["map"].max() in (0, 1) for one in studied.clean)


def test_places_behind_the_relu_do_not_overlap() -> None:
    """Of four places two may count, but only one of each map is above 0."""
    one, other = torch.tensor([[0.0, 0.0, 0.0, 5.0]]), torch.tensor([[0.0, 0.0, 5.0, 0.0]])
    assert top_overlap(one, other, 0.5).item() == 0 and top_overlap(one, 2 * one, 0.5).item() == 1


def test_the_true_class_may_be_explained_instead(tmp_path: Path) -> None:
    images, targets = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])
    victim, ids = as_victim(OneLayer()), list("abcd")
    found = GradCAM(explains="truth").of_clean(victim, images, targets, ids)["map"]
    for classes, same in ((targets, True), (1 - targets, False)):
        small = grad_cam(victim, images, classes, "maps")
        large = functional.interpolate(small[:, None], (8, 8), mode="bilinear")[:, 0]
        scale = large.amax((1, 2), keepdim=True).clamp(min=1e-12)
        assert torch.allclose(found, (large / scale).half(), atol=1e-3) is same


def test_unknown_choices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="explains is 'prediction' or 'truth', got 'both'"):
        GradCAM(explains="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the network has no layer 'mapps'; the nearest names are maps"):
        study(tmp_path, layer="mapps")
    with pytest.raises(ValueError, match=r"Grad-CAM looks at one layer, and '\*a\*' stands for maps, activation, head"):
        study(tmp_path, layer="*a*")


def test_two_studies_of_one_column_and_other_tasks_are_refused(tmp_path: Path) -> None:
    data = random_data(4)
    two = Studies(str(tmp_path), {"one": GradCAM(), "other": GradCAM(layer="maps")})
    with pytest.raises(ValueError, match="studies of one kind add the same columns, got GradCAM, GradCAM: keep one of"):
        recording.evaluate(as_victim(OneLayer()), data, {"fgsm": FGSM()}, two)
    data.task = "segmentation"
    one = Studies(str(tmp_path), {"one": GradCAM()})
    with pytest.raises(ValueError, match=r"the study 'one' looks at one class per image \(GradCAM\), got the task seg"):
        recording.evaluate(as_victim(OneLayer()), data, {"fgsm": FGSM()}, one)
