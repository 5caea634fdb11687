"""The two-stage detector: its shapes, its booster, losses without chance, and the questions that attacks ask."""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import fastrcnn_loss

from medrobust.networks.booster import MultiScaleBooster
from medrobust.networks.box_losses import expected_distance, expected_loss, sample_weights
from medrobust.networks.boxes import build_detector
from medrobust.networks.deployment import BFloat16, deployment_copy
from medrobust.networks.features import layers_named, tapped
from tests.networks.test_deployment import randomise

SMALL = {"backbone": "test_resnet", "width": 16, "anchor": 8, "proposals": 20}


def detector(**options):
    """An untrained detector of three classes whose logits differ between places, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomise(build_detector(**{**SMALL, "num_classes": 3, **options}))
        torch.manual_seed(1)  # or the boosters' own numbers would shift these
        for layer in (network.rpn.head.cls_logits, network.rpn.head.bbox_pred, network.heads.box_predictor.cls_score):
            nn.init.normal_(layer.weight, std=0.3)
    return network.eval()


def images_of(count=3, side=64):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1


def truths_of(*counts):
    generator = torch.Generator().manual_seed(3)
    truths = []
    for count in counts:
        corners = torch.rand(count, 2, generator=generator) * 40
        sides = 8 + torch.rand(count, 2, generator=generator) * 16
        labels = torch.randint(0, 3, (count,), generator=generator)
        truths.append({"boxes": torch.cat([corners, corners + sides], 1), "labels": labels})
    return truths


TRUTHS = truths_of(3, 0, 1)


def test_detections_are_sorted_inside_the_image_and_counted_from_class_0():
    outputs = detector()(images_of(side=72))  # no multiple of 32
    assert len(outputs) == 3 and {label for output in outputs for label in output["labels"].tolist()} <= {0, 1, 2}
    for output in outputs:
        assert output["boxes"].shape == (len(output["scores"]), 4) and len(output["scores"])
        assert output["scores"].diff().le(0).all() and output["scores"].ge(0.05).all()
        assert output["boxes"].min() >= 0 and output["boxes"].max() <= 72


def test_the_booster_keeps_the_shape_and_shares_one_convolution_over_its_dilations():
    booster = MultiScaleBooster(8)
    level = torch.rand(2, 8, 9, 11)
    assert booster(level).shape == level.shape
    three = [one for one in booster.modules() if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3)]
    assert len(three) == 1
    # a single bright place: dilations 1, 2 and 3 reach 3 places to each side, and the spatial attention 3 more
    bright = torch.zeros(1, 8, 21, 21, dtype=torch.float64)
    bright[0, :, 10, 10] = 1
    booster = booster.double()
    changed = (booster(bright) - booster(torch.zeros_like(bright)) - bright).abs().sum((0, 1)) > 1e-9
    with torch.no_grad():  # the squeeze-excite block sees all places: without it only the reach is left
        booster.squeeze.weight.zero_()
    changed = (booster(bright) - booster(torch.zeros_like(bright)) - bright).abs().sum((0, 1)) > 1e-12
    rows = changed.any(1).nonzero().flatten().tolist()
    assert rows == list(range(4, 17))


def test_without_the_booster_it_is_the_plain_pyramid_bit_for_bit():
    plain, boosted = (detector(booster=booster) for booster in (False, True))
    own = boosted.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())
    assert {name.split(".")[0] for name in own.keys() - plain.state_dict().keys()} == {"boosters"}
    assert len(boosted.boosters) == 4

    images = images_of()
    levels = plain.scene(images).levels
    maps = plain.backbone(images)
    pyramid = plain.pyramid({str(place): one for place, one in enumerate(maps[-4:])})
    assert all(torch.equal(levels[name], pyramid[name]) for name in pyramid)
    expected = [booster(level) for booster, level in zip(boosted.boosters, pyramid.values())]
    torch.testing.assert_close([boosted.scene(images).levels[name] for name in pyramid], expected)


def test_the_parts_are_the_expected_losses_of_torchvisions_random_samples():
    network, images = detector(), images_of(1)
    parts = network(images, targets=TRUTHS[:1])
    scene = network.scene(images)
    truths = [{"boxes": TRUTHS[0]["boxes"], "labels": TRUTHS[0]["labels"] + 1}]
    labels, matched = network.rpn.assign_targets_to_anchors([scene.anchors], truths)
    wanted = network.rpn.box_coder.encode(matched, [scene.anchors])
    proposals = network._likeliest(scene, 0.7, 20)
    torch.manual_seed(0)
    samples = []
    for _ in range(400):
        first = network.rpn.compute_loss(scene.objectness.view(-1, 1), scene.deltas.view(-1, 4), labels, wanted)
        chosen, _, kinds, codes = network.heads.select_training_samples(list(proposals), truths)
        second = fastrcnn_loss(*network._classified(scene, chosen), kinds, codes)
        samples.append(torch.stack([*first, *second]).detach())
    samples = torch.stack(samples)
    error = 4 * samples.std(0) / math.sqrt(len(samples)) + 1e-6
    expected = torch.stack([parts[name][0] for name in ("objectness", "proposals", "classes", "boxes")])
    assert ((samples.mean(0) - expected).abs() <= error).all()
    assert (error[0] < 0.05 * expected[0]) and all(value > 0 for value in expected)


def test_expected_losses_by_hand():
    assert [weight.tolist() for weight in sample_weights(torch.tensor([3, 0]), torch.tensor([2, 0]), 4, 0.5)] == [
        [0.5, 0],
        [0.5, 0],
    ]
    values, labels = torch.tensor([[4.0, 2.0, 1.0, 9.0]]), torch.tensor([[1, 2, 0, -1]])
    # two positives of mean 3 and one negative of 1: all fit into a sample of 4
    assert expected_loss(values, labels, 4, 0.5).tolist() == pytest.approx([2 / 3 * 3 + 1 / 3])
    # 1/9 away: 1/2 * 9 * (1/9)^2 = 1/18 on one coordinate; far away: |x| - 1/18
    deltas = torch.tensor([[[1 / 9, 0, 0, 0], [0, 0, 0, 1.0], [5.0, 5, 5, 5], [5.0, 5, 5, 5]]])
    wanted = torch.tensor([0.0, math.inf]).view(1, 2, 1).expand(1, 2, 4).repeat_interleave(2, 1)
    found = expected_distance(deltas, wanted, labels, 4, 0.5)
    assert found.tolist() == pytest.approx([2 / 3 * (1 / 18 + 17 / 18) / 2])


def test_a_loss_does_not_depend_on_the_call_or_on_the_images_beside_it():
    network, images = detector(), images_of()
    together = network(images, targets=TRUTHS)
    assert list(together) == ["objectness", "proposals", "classes", "boxes"]
    state = torch.random.get_rng_state()
    again = network(images, targets=TRUTHS)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, values in together.items():
        assert values.shape == (3,) and torch.equal(values, again[name])
        alone = torch.cat([network(images[n : n + 1], targets=TRUTHS[n : n + 1])[name] for n in range(3)])
        torch.testing.assert_close(alone, values, rtol=1e-4, atol=1e-6)
    detections, parts = network(images, targets=TRUTHS, measured=True)
    assert all(torch.equal(values, parts[name]) for name, values in together.items())
    for mine, own in zip(detections, network(images)):
        assert torch.equal(mine["boxes"], own["boxes"])
    for n in range(3):
        (own,) = network(images[n : n + 1])
        torch.testing.assert_close(own["scores"], detections[n]["scores"], rtol=1e-4, atol=1e-6)


def test_an_image_without_boxes_has_a_loss_whose_gradient_is_finite():
    network, images = detector(), images_of().requires_grad_()
    parts = network(images, targets=TRUTHS)
    assert parts["proposals"][1] == parts["boxes"][1] == 0 and parts["objectness"][1] > 0 and parts["classes"][1] > 0
    (gradient,) = torch.autograd.grad(sum(values.sum() for values in parts.values()), images)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()
    (own,) = torch.autograd.grad(network(images, targets=TRUTHS)["classes"][0], images)
    assert own[0].norm() > 0 and own[1:].norm() == 0


def test_the_backbone_runs_once_for_whatever_is_asked():
    network, images, calls = detector(), images_of(), []
    network.backbone.register_forward_hook(lambda *_: calls.append(1))
    boxes = [torch.tensor([[0.0, 0, 9, 9]])] * 3
    questions = ({}, {"targets": TRUTHS}, {"overlap": 0.5}, {"proposals": boxes}, {"raw": True})
    for question in (*questions, {"targets": TRUTHS, "measured": True}):
        calls.clear()
        network(images, **question)
        assert len(calls) == 1


def test_proposals_are_sparse_and_without_a_gradient():
    network, images = detector(), images_of().requires_grad_()
    for overlap in (0.3, 0.9):
        proposals = network(images, overlap=overlap)
        for boxes in proposals:
            assert boxes.shape[1] == 4 and len(boxes) > 20 and not boxes.requires_grad
            corners = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
            shared = (corners[1] - corners[0]).clamp(min=0).prod(2)
            area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            ious = shared / (area[:, None] + area - shared)
            assert ious.fill_diagonal_(0).max() <= overlap + 1e-4
    # the likeliest first: the first proposal is that of the largest objectness whose box is not empty
    scene = network.scene(images)
    place = scene.objectness[0].argmax()
    first = network.rpn.box_coder.decode_single(scene.deltas[0, place : place + 1], scene.anchors[place : place + 1])
    torch.testing.assert_close(proposals[0][0], first[0].clamp(0, 64).detach())


def test_logits_of_proposals_have_the_background_last_and_a_gradient_to_the_images():
    network, images = detector(), images_of(2).requires_grad_()
    boxes = [torch.tensor([[4.0, 4, 30, 30], [0, 0, 64, 64]]), torch.zeros(0, 4)]
    logits = network(images, proposals=boxes)
    assert [tuple(part.shape) for part in logits] == [(2, 4), (0, 4)]
    own, _ = network._classified(network.scene(images), boxes)
    torch.testing.assert_close(logits[0], own[:, [1, 2, 3, 0]])
    (gradient,) = torch.autograd.grad(logits[0][:, 3].sum(), images)
    assert gradient[0].norm() > 0 and gradient[1].norm() == 0


def test_what_is_not_finite_is_seen_in_the_outputs():
    network, images = detector(), images_of(2)
    images[1, 0, 5, 5] = torch.nan
    outputs = network(images)
    assert outputs[0]["scores"].isfinite().all() and outputs[1]["scores"].isnan().tolist() == [True]


def test_no_detection_at_all_is_legal():
    network = detector()
    nn.init.constant_(network.heads.box_predictor.cls_score.bias[:1].data, 1e3)  # the background
    network.heads.box_predictor.cls_score.bias.data[0] = 1e3
    assert [{name: tuple(part.shape) for name, part in one.items()} for one in network(images_of(2))] == [
        {"boxes": (0, 4), "scores": (0,), "labels": (0,)}
    ] * 2


def test_its_deployment_copy_is_folded_and_answers_the_same():
    network, images = detector(booster=True), images_of(2)
    copied, folded = deployment_copy(network, images)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert folded == norms > 10
    for name, values in network(images, targets=TRUTHS[:2]).items():
        torch.testing.assert_close(copied(images, targets=TRUTHS[:2])[name], values, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        copied(images, overlap=0.5)[0][:3], network(images, overlap=0.5)[0][:3], rtol=1e-3, atol=1e-2
    )
    half = BFloat16(network)(images, targets=TRUTHS[:2])
    for name, values in network(images, targets=TRUTHS[:2]).items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], values, rtol=0.3, atol=0.1)


def test_its_layers_can_be_tapped():
    network = detector(booster=True)
    names = layers_named(network, ["backbone.layer4", "pyramid.layer_blocks.*.0", "boosters.0"])
    with torch.no_grad(), tapped(network, names) as taps:
        network(images_of(2))
    assert {name: tuple(taps[name].shape) for name in names} == {
        "backbone.layer4": (2, 96),
        **{f"pyramid.layer_blocks.{place}.0": (2, 16) for place in range(4)},
        "boosters.0": (2, 16),
    }


def test_the_scale_of_a_level_does_not_depend_on_the_first_images_seen():
    fresh, used = detector(), detector()
    used(images_of(1, side=32))
    torch.testing.assert_close(used(images_of(2))[0]["scores"], fresh(images_of(2))[0]["scores"])


def test_weights_of_a_file_are_those_of_the_backbone(tmp_path):
    import timm

    whole = timm.create_model("test_resnet", num_classes=7)
    torch.save(whole.state_dict(), tmp_path / "weights.pt")
    network = build_detector(**SMALL, num_classes=2, weights=str(tmp_path / "weights.pt"))
    torch.testing.assert_close(
        network.backbone.state_dict()["layer4.0.conv1.weight"], whole.layer4[0].conv1.weight.detach()
    )
    for name, wrong, reason in (
        ("backbone", "vit_tiny_patch16_224", "vit_tiny_patch16_224 has no maps|a pyramid needs maps"),
        ("backbone", "resnet999", "timm has no network 'resnet999'"),
        ("weights", "absent.pt", "there is no file absent.pt"),
        ("num_classes", 0, "num_classes is at least 1, got 0"),
        ("proposals", 0, "proposals is at least 1, got 0"),
        ("options", {"strange": 1}, "does not take the options"),
    ):
        with pytest.raises(ValueError, match=reason):
            build_detector(**{**SMALL, "num_classes": 2, name: wrong})


def test_it_is_copied_and_runs_in_double_precision():
    network, images = detector(), images_of(1)
    exact = copy.deepcopy(network).double()(images.double(), targets=TRUTHS[:1])
    for name, values in network(images, targets=TRUTHS[:1]).items():
        assert exact[name].dtype == torch.float64
        torch.testing.assert_close(values.double(), exact[name], rtol=1e-3, atol=1e-4)


def test_an_empty_batch_has_no_detections_and_losses_with_a_gradient():
    network, images = detector(), torch.zeros(0, 3, 64, 64, requires_grad=True)
    assert network(images) == network(images, overlap=0.5) == network(images, proposals=[]) == []
    parts = network(images, targets=[])
    assert list(parts) == ["objectness", "proposals", "classes", "boxes"]
    (gradient,) = torch.autograd.grad(sum(values.sum() for values in parts.values()), images)
    assert gradient.shape == images.shape
