"""Deployment copies: one pair by hand, equality in float64 on whole networks, and the cases that must not be folded."""

import copy
import warnings

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d, StdConv2d
from torch import nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from medrobust.networks.deployment import ChannelsLast, deployment_copy
from medrobust.networks.segmenters import build_segmenter

# name, options, pairs that can be folded: a densenet's or a pre-activation's other norms read a sum or a concatenation
NETWORKS = [
    ("resnet18", {}, 20),
    ("resnet10t", {}, 14),
    ("mobilenetv2_100", {}, 52),
    ("densenet121", {}, 59),
    ("resnetv2_50", {"layers": (1, 1, 1, 1)}, 8),
    ("efficientnet_b0", {}, 49),
    ("tf_efficientnet_b0", {}, 49),
    ("convnext_atto", {}, 0),
    ("vgg11", {"mlp_ratio": 1 / 64}, 0),
]


def randomise(network: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics and factors that are neither 0 nor 1: fresh ones would fold to the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for name in ("running_mean", "running_var", "weight", "bias"):
                low, high = (0.5, 1.5) if name in ("running_var", "weight") else (-0.3, 0.3)
                if getattr(module, name) is not None:
                    getattr(module, name).data.uniform_(low, high, generator=generator)
    return network


def outputs_and_gradient(network, images):
    images = images.clone().requires_grad_()
    outputs = network(images)
    (gradient,) = torch.autograd.grad((outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum(), images)
    return outputs.detach(), gradient


def assert_equal(network, copied, images):
    """In float64, where no rounding moves a value across the kink of a ReLU; outputs in float32 too."""
    expected = outputs_and_gradient(copy.deepcopy(network).double().eval(), images.double())
    got = outputs_and_gradient(copy.deepcopy(copied).double(), images.double())
    # the folded weights were rounded to float32: 6e-8 each
    for wanted, received in zip(expected, got, strict=True):
        assert wanted.norm() > 0
        assert (received - wanted).norm() / wanted.norm() < 1e-4
    error = copied(images).detach().double() - expected[0]
    assert error.norm() / expected[0].norm() < 1e-3


def quietly(network, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return deployment_copy(network, images)


@pytest.mark.parametrize(("name", "options", "pairs"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_copy_equals_the_network(name, options, pairs):
    torch.manual_seed(0)
    network = randomise(timm.create_model(name, num_classes=3, **options))
    images = torch.rand(2, 3, 32, 32)
    before, was_training = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]

    copied, folded = quietly(network, images)

    assert folded == pairs
    assert_equal(network, copied, images)
    # the original is as it was
    assert [module.training for module in network.modules()] == was_training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    # the copy is frozen, in eval mode and shares nothing
    assert not any(module.training for module in copied.modules())
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    theirs = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in copied.state_dict().values()}


def test_one_pair_by_hand():
    # y = 3 (2 x + 1 - 5) / sqrt(3 + 1) + 7 = 3 x + 1: weight 2 * 3 / 2 = 3, bias (1 - 5) * 3 / 2 + 7 = 1
    convolution, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1.0)
    for tensor, value in (
        (convolution.weight, 2.0),
        (convolution.bias, 1.0),
        (norm.running_mean, 5.0),
        (norm.running_var, 3.0),
        (norm.weight, 3.0),
        (norm.bias, 7.0),
    ):
        tensor.data.fill_(value)

    copied, folded = quietly(nn.Sequential(convolution, norm), torch.rand(1, 1, 2, 2))

    assert folded == 1
    assert copied.network[0].weight.item() == 3.0
    assert copied.network[0].bias.item() == 1.0
    assert copied(torch.full((1, 1, 1, 1), 0.5)).item() == 2.5


def test_memory_format():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    copied, _ = quietly(network, torch.rand(2, 3, 8, 8))
    assert copied.network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert copied(torch.rand(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    assert network[0].weight.is_contiguous()


def test_copy_cannot_be_put_in_training_mode():
    copied, _ = quietly(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5)), torch.rand(2, 3, 8, 8))
    assert not any(module.training for module in copied.train().modules())


PAIRS = {
    "bias": (nn.Conv2d(4, 6, 3, bias=True), nn.BatchNorm2d(6)),
    "no bias": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, stride=2, padding=1), nn.BatchNorm2d(8)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)),
    "not affine": (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "frozen": (nn.Conv2d(4, 6, 3), FrozenBatchNorm2d(6)),
    "activated": (nn.Conv2d(4, 6, 3), BatchNormAct2d(6, act_layer=nn.SiLU)),
    "activated in place": (nn.Conv2d(4, 6, 3), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(inplace=True))),
}


@pytest.mark.parametrize("case", PAIRS)
def test_pair_is_folded(case):
    torch.manual_seed(0)
    network, images = randomise(nn.Sequential(*copy.deepcopy(PAIRS[case]))), torch.rand(2, 4, 8, 8)
    copied, folded = quietly(network, images)
    assert folded == 1
    assert not any(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in copied.modules())
    assert_equal(network, copied, images)


def test_activation_and_drop_of_a_norm_are_kept():
    norm = BatchNormAct2d(6, act_layer=nn.Hardtanh, drop_layer=nn.Dropout2d)
    copied, folded = quietly(nn.Sequential(nn.Conv2d(4, 6, 3), norm), torch.rand(2, 4, 8, 8))
    assert folded == 1
    assert [type(module) for module in copied.network[1]] == [nn.Dropout2d, nn.Hardtanh]


class Case(nn.Module):
    """A convolution and a norm that are not each other's only partner, or no plain pair; ``how`` names the forward."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        if how == "standardised weight":
            self.first = StdConv2d(4, 4, 3, padding=1)
        elif how == "recomputed weight":
            self.first = torch.nn.utils.spectral_norm(self.first)
        elif how == "parametrized weight":
            self.first = torch.nn.utils.parametrizations.weight_norm(self.first)
        elif how == "transposed":
            self.first = nn.ConvTranspose2d(4, 4, 3, padding=1)
        elif how == "batch statistics":
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, images):
        match self.how:
            case "residual before the norm":
                between = self.first(images)
                return between + self.norm(between)
            case "residual by method, after the norm":
                between = self.first(images)
                return self.norm(between).mul(between.sigmoid())
            case "view of the convolution's output":
                between = self.first(images)
                return self.norm(between).flatten(1) + between.flatten(1)
            case "returned beside":
                between = self.first(images)
                return torch.stack([self.norm(between), between])
            case "two norms":
                between = self.first(images)
                return self.norm(between) + self.other(between)
            case "changed between":
                return self.norm(self.first(images).mul_(2).add_(1))
            case "shared convolution":
                return self.norm(self.first(images)) + self.other(self.first(images * images))
            case "shared norm":
                return self.norm(self.first(images)) * self.norm(self.second(images))
            case "one pair twice":
                return self.norm(self.first(functional.relu(self.norm(self.first(images)))))
            case _:
                return self.norm(self.first(images))


CASES = [
    "residual before the norm",
    "residual by method, after the norm",
    "view of the convolution's output",
    "returned beside",
    "two norms",
    "changed between",
    "shared convolution",
    "shared norm",
    "one pair twice",
    "standardised weight",
    "recomputed weight",
    "parametrized weight",
    "transposed",
]


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*")
@pytest.mark.parametrize("how", CASES)
def test_not_folded_and_still_equal(how):
    torch.manual_seed(0)
    network, images = randomise(Case(how)), torch.rand(2, 4, 6, 6)
    copied, folded = quietly(network, images)
    assert folded == 0
    assert isinstance(copied, ChannelsLast)
    assert_equal(network, copied, images)


def test_norm_with_batch_statistics_is_left():
    torch.manual_seed(0)
    network, images = Case("batch statistics"), torch.rand(2, 4, 6, 6)
    copied, folded = quietly(network, images)
    assert folded == 0
    assert_equal(network, copied, images)


def test_norm_known_by_two_names_is_replaced_under_both():
    class Nicknamed(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
            self.nickname = self.pair[1]

        def forward(self, images):
            return self.nickname(self.pair[0](images))

    network, images = randomise(Nicknamed()), torch.rand(2, 3, 8, 8)
    copied, folded = quietly(network, images)
    assert folded == 1
    assert_equal(network, copied, images)


def test_tied_weight_of_another_convolution_is_left():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.second.weight = self.first.weight
            self.norm = randomise(nn.BatchNorm2d(4))

        def forward(self, images):
            return self.second(self.norm(self.first(images)))

    network, images = Tied(), torch.rand(2, 4, 8, 8)
    copied, folded = quietly(network, images)
    assert folded == 1
    assert_equal(network, copied, images)


class ReadsItsNorm(nn.Module):
    """Uses its norm's mean beside calling it, which one forward's tensors do not show."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(4, 4, 1), randomise(nn.BatchNorm2d(4))

    def forward(self, images):
        doubled = isinstance(self.norm, nn.BatchNorm2d)
        return self.norm(self.convolution(images)) * (2 if doubled else 1)


def test_folding_that_changes_the_outputs_is_given_up_with_a_warning():
    network, images = ReadsItsNorm(), torch.rand(2, 4, 8, 8)
    with pytest.warns(UserWarning, match="folding 1 BatchNorms changed outputs or gradients by 5.0e-01"):
        copied, folded = deployment_copy(network, images)
    assert folded == 0
    assert isinstance(copied, ChannelsLast)
    assert_equal(network, copied, images)


def test_channels_last_that_changes_the_outputs_is_given_up_with_a_warning():
    class ReadsItsMemory(nn.Module):
        def forward(self, images):
            return images * images.stride(1)

    network, images = ReadsItsMemory(), torch.rand(2, 4, 8, 8)
    with pytest.warns(UserWarning, match="channels_last changed outputs or gradients"):
        copied, folded = deployment_copy(network, images)
    assert folded == 0
    assert torch.equal(copied(images), network(images))


def test_network_that_insists_on_float32():
    class Insists(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = nn.Sequential(nn.Conv2d(3, 4, 3), randomise(nn.BatchNorm2d(4)))
            self.matrix = [torch.rand(4, 2)]  # no buffer: .double() does not reach it

        def forward(self, images):
            return self.pair(images).mean((2, 3)) @ self.matrix[0]

    network, images = Insists(), torch.rand(2, 3, 8, 8)
    copied, folded = quietly(network, images)
    assert folded == 1
    torch.testing.assert_close(copied(images), network.eval()(images), rtol=1e-4, atol=1e-5)


def test_outputs_may_be_a_dictionary():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = nn.Sequential(nn.Conv2d(3, 4, 3), randomise(nn.BatchNorm2d(4)))

        def forward(self, images):
            scores = self.pair(images)
            return {"scores": [scores], "classes": scores.argmax(1)}

    _, folded = quietly(Both(), torch.rand(2, 3, 8, 8))
    assert folded == 1


def test_inference_mode_and_autocast_around_it_do_not_matter():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), randomise(nn.BatchNorm2d(4)))
    with torch.inference_mode(), torch.autocast("cpu"):
        copied, folded = quietly(network, torch.rand(2, 3, 8, 8))
    assert folded == 1
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(copied(images).sum(), images)
    assert gradient.norm() > 0


@pytest.mark.parametrize("size", [(1, 3, 17, 23), (3, 3, 40, 32)])
def test_copy_takes_other_sizes(size):
    torch.manual_seed(0)
    network = randomise(timm.create_model("resnet10t", num_classes=3))
    copied, _ = quietly(network, torch.rand(1, 3, 32, 32))
    assert_equal(network, copied, torch.rand(size))


def test_overexposed_images_have_ties_in_max_pooling_that_do_not_count():
    torch.manual_seed(0)
    network = randomise(timm.create_model("resnet10t", num_classes=3))
    images = torch.ones(2, 3, 32, 32)
    copied, folded = quietly(network, images)
    assert folded == 14


def test_a_black_border_does_not_hinder_the_folding() -> None:
    torch.manual_seed(0)
    network = build_segmenter("resnet18", 2, options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]}).eval()
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    images = torch.full((2, 1, 64, 64), -1.0)
    images[:, :, 20:44, 20:44] = torch.rand(2, 1, 24, 24)  # elsewhere all values of a map that is pooled are equal
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert deployment_copy(network, images)[1] == len(norms)
