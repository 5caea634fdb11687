"""Classifiers: heads on several backbones, weights of local files adapted by hand, and one-sentence refusals."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from medrobust.networks.classifiers import build_classifier

BACKBONES = {  # with the name of its classifier
    "resnet10t": "fc",
    "mobilenetv2_100": "classifier",
    "densenet121": "classifier",
    "convnext_atto": "head.fc",
    "vit_tiny_patch16_224": "head",
}
OPTIONS = {"vit_tiny_patch16_224": {"img_size": 32, "depth": 2}}
SMALL = "resnet10t"


@pytest.fixture(scope="module")
def pretrained():
    """Weights of a backbone as somebody else may have published them: three channels, seven classes."""
    torch.manual_seed(1)
    return timm.create_model(SMALL, num_classes=7).state_dict()


@pytest.fixture(params=["safetensors", "pt"])
def weight_file(request, tmp_path, pretrained):
    path = tmp_path / f"weights.{request.param}"
    (save_file if request.param == "safetensors" else torch.save)(dict(pretrained), path)
    return path


def refusal(*args, **kwargs):
    """The sentence with which a request is refused."""
    with pytest.raises(ValueError) as caught:
        build_classifier(*args, **kwargs)
    message = str(caught.value)
    assert len(message) < 400, message
    assert "\n" not in message, message
    return message


@pytest.mark.parametrize("head", ["linear", "dense"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_head(backbone, head):
    network = build_classifier(backbone, 4, head=head, channels=1, options=OPTIONS.get(backbone)).eval()
    classifier = network.get_submodule(BACKBONES[backbone])
    if head == "linear":
        assert type(classifier) is nn.Linear
        assert classifier.out_features == 4
    else:
        assert [type(module) for module in classifier] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
        assert classifier[0].out_features == classifier[3].in_features == 128
        assert classifier[2].p == 0.2
        assert classifier[3].out_features == 4
    with torch.no_grad():
        assert network(torch.rand(3, 1, 32, 32)).shape == (3, 4)


def test_dense_head_reads_what_the_linear_one_read():
    torch.manual_seed(0)
    network = build_classifier(SMALL, 2, head="dense").eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        pooled = network.forward_head(network.forward_features(images), pre_logits=True)
        first, second = network.fc[0], network.fc[3]
        expected = (pooled @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
        torch.testing.assert_close(network(images), expected)


def test_file_round_trip_without_its_classifier(weight_file, pretrained):
    torch.manual_seed(2)
    fresh = build_classifier(SMALL, 2).state_dict()
    torch.manual_seed(2)
    network = build_classifier(SMALL, 2, weights=str(weight_file))
    for name, tensor in network.state_dict().items():
        wanted = fresh[name] if name.startswith("fc.") else pretrained[name]
        assert torch.equal(tensor, wanted), name


def test_file_is_loaded_before_the_dense_head(weight_file, pretrained):
    network = build_classifier(SMALL, 7, head="dense", weights=str(weight_file))
    assert torch.equal(network.state_dict()["conv1.0.weight"], pretrained["conv1.0.weight"])
    assert network.fc[3].out_features == 7


def test_first_convolution_is_summed_over_channels_for_grey_images(weight_file, pretrained):
    network = build_classifier(SMALL, 2, channels=1, weights=str(weight_file)).eval()
    colour = pretrained["conv1.0.weight"]
    torch.testing.assert_close(network.conv1[0].weight, colour[:, :1] + colour[:, 1:2] + colour[:, 2:])
    # a grey picture as three equal channels gives the published network the very same input to its second layer
    original = timm.create_model(SMALL, num_classes=7)
    original.load_state_dict(pretrained)
    grey = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        expected = original.eval().forward_features(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(network.forward_features(grey), expected, rtol=1e-3, atol=1e-4)


def test_more_channels_than_colours(weight_file, pretrained):
    network = build_classifier(SMALL, 2, channels=4, weights=str(weight_file))
    # the colours are repeated and scaled so that a constant image keeps its response on average
    colour = pretrained["conv1.0.weight"]
    torch.testing.assert_close(network.conv1[0].weight, torch.cat([colour, colour[:, :1]], 1) * 3 / 4)


def test_lightning_checkpoint_of_a_bare_network(tmp_path, pretrained):
    torch.save({"state_dict": dict(pretrained), "epoch": 3}, tmp_path / "last.ckpt")
    network = build_classifier(SMALL, 2, weights=str(tmp_path / "last.ckpt"))
    assert torch.equal(network.conv1[0].weight, pretrained["conv1.0.weight"])


def test_options_reach_the_backbone():
    assert build_classifier(SMALL, 2, options={"drop_rate": 0.3}).drop_rate == 0.3


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_too_few_classes(classes):
    assert f"at least 2, got {classes}" in refusal(SMALL, classes)


def test_unknown_backbone():
    message = refusal("resnet51", 2)
    assert "'resnet51'" in message
    assert "resnet50" in message or "resnet1" in message  # similar names


def test_unknown_option():
    message = refusal(SMALL, 2, options={"colour": "red"})
    assert SMALL in message
    assert "colour" in message


def test_unknown_head():
    assert "'dense'" in refusal(SMALL, 2, head="densest")


def test_missing_file(tmp_path):
    assert "nowhere.pt" in refusal(SMALL, 2, weights=str(tmp_path / "nowhere.pt"))


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors", "empty.pt", "empty.safetensors"])
def test_file_that_holds_no_weights(name, tmp_path):
    (tmp_path / name).write_text("these are no weights" if "text" in name else "")
    assert name in refusal(SMALL, 2, weights=str(tmp_path / name))


def test_file_of_a_whole_module(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    assert "module.pt" in refusal(SMALL, 2, weights=str(tmp_path / "module.pt"))


FOREIGN = {
    "list": [torch.zeros(2)],
    "tensor": torch.zeros(2),
    "empty": {},
    "numbers as names": {0: torch.zeros(2)},
    "other names": {"weight": torch.zeros(2)},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_file_of_something_else(case, tmp_path):
    torch.save(FOREIGN[case], tmp_path / "other.pt")
    assert "other.pt" in refusal(SMALL, 2, weights=str(tmp_path / "other.pt"))


def test_file_of_another_network(tmp_path, pretrained):
    torch.save(timm.create_model("resnet14t").state_dict(), tmp_path / "other.pt")
    message = refusal(SMALL, 2, weights=str(tmp_path / "other.pt"))
    assert "other.pt" in message
    assert SMALL in message


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "no tensor"])
def test_file_with_one_wrong_entry(change, tmp_path, pretrained):
    state, name = dict(pretrained), "layer1.0.conv1.weight"
    if change == "missing":
        del state[name]
    elif change == "unknown":
        name = "foreign.weight"
        state[name] = torch.zeros(1)
    else:
        state[name] = torch.zeros(1) if change == "shape" else "a word"
    torch.save(state, tmp_path / "other.pt")
    message = refusal(SMALL, 2, weights=str(tmp_path / "other.pt"))
    assert "other.pt" in message
    assert name in message


@pytest.mark.parametrize(("held", "wanted"), [(1, 2), (4, 1), (1, 3)])
def test_first_convolution_that_cannot_be_adapted(held, wanted, tmp_path, pretrained):
    state = dict(pretrained)
    state["conv1.0.weight"] = torch.zeros(len(state["conv1.0.weight"]), held, 3, 3)
    torch.save(state, tmp_path / "other.pt")
    message = refusal(SMALL, 2, channels=wanted, weights=str(tmp_path / "other.pt"))
    assert "other.pt" in message
    assert "conv1.0.weight" in message


def test_backbone_without_a_linear_classifier():
    # its classifier is a convolution
    assert "linear classifier" in refusal("dpn48b", 2, head="dense")


def test_no_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("[Errno -3] Temporary failure in name resolution\n(while reaching the hub)")

    monkeypatch.setattr(timm, "create_model", unreachable)
    message = refusal(SMALL, 2, weights="hub")
    assert "could not be downloaded" in message
    assert SMALL in message
    assert "local file" in message


def test_other_errors_are_not_blamed_on_the_hub(monkeypatch):
    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(OSError, match="disk full"):
        build_classifier(SMALL, 2)


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv2_100"])
def test_a_linear_head_starts_with_the_standard_deviation_that_is_asked_for(backbone):
    torch.manual_seed(0)
    head = build_classifier(backbone, num_classes=10, head_std=0.01).get_submodule(BACKBONES[backbone])
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.05)  # of at least 5120 weights: 1 % off at most
    assert head.weight.mean().abs() < 1e-3 and not head.bias.any()
    assert (
        build_classifier(SMALL, 3, "dense", head_std=0.01).fc[0].weight.std() > 0.02
    )  # the other heads have their own
    assert refusal(SMALL, 3, head_std=-1.0) == "head_std is a standard deviation and at least 0, got -1.0"
