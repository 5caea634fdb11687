"""Networks on maps: patterns in space that no mean over space shows, sizes, and what an extractor gives them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.detectors import Features, LayerConvolutions, LayerNetworks, Views, views_needed
from medrobust.evaluation.extraction import Extractor
from medrobust.metrics.separation import auroc
from medrobust.networks import as_victim
from medrobust.networks.features import reduced_maps


def seen(count: int, seed: int, checks: float = 0.0) -> Features:
    """Maps of two layers; in the second, a chessboard of the given height lies on one channel, with a mean of zero."""
    generator = torch.Generator().manual_seed(seed)
    maps = {
        name: torch.randn((count, channels, side, side), generator=generator)
        for name, channels, side in (("first", 3, 6), ("second", 4, 4))
    }
    rows = torch.arange(4)
    maps["second"][:, 0] += checks * (1 - 2.0 * ((rows[:, None] + rows) % 2))
    return Features({n: m.mean((2, 3)) for n, m in maps.items()}, torch.zeros(count).long(), maps=maps)


@pytest.fixture(scope="module")
def detector() -> LayerConvolutions:
    return LayerConvolutions(hidden=8).fit(seen(200, 0), torch.zeros(200).long(), seen(150, 1, 1.0))


def test_a_pattern_in_space_is_found_that_the_mean_over_space_hides(detector: LayerConvolutions) -> None:
    clean, adversarial = seen(200, 2), seen(200, 3, 1.0)
    assert auroc(detector.score(clean), detector.score(adversarial)).item() > 0.9
    averaged = LayerNetworks(epochs=30).fit(seen(200, 0), torch.zeros(200).long(), seen(150, 1, 1.0))
    assert auroc(averaged.score(clean), averaged.score(adversarial)).item() < 0.6
    logits = [detector.layer_logits(detector.measure(one)) for one in (clean, adversarial)]
    areas = [auroc(*(part[:, layer] for part in logits)).item() for layer in (0, 1)]
    assert abs(areas[0] - 0.5) < 0.1 and areas[1] > 0.9


def test_the_score_is_the_mean_of_the_sigmoids_of_plain_networks(detector: LayerConvolutions) -> None:
    """Written out with modules of torch and the stored weights."""
    given, columns = seen(5, 4), []
    for index, maps in enumerate(given.maps.values()):
        kept = {name: detector.get_buffer(f"{name}_{index}").double() for name in ("centre", "width")}
        network = nn.Sequential(
            nn.Conv2d(maps.shape[1], 8, 1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 1, 1)
        ).double()
        names = ["first", "first_bias", "second", "second_bias", "third", "third_bias"]
        for parameter, name in zip(network.parameters(), names, strict=True):
            parameter.data = detector.get_buffer(f"{name}_{index}").double()
        scaled = ((maps.double() - kept["centre"]) / kept["width"]).clamp(-10, 10)
        columns.append(network(scaled).mean((1, 2, 3)).sigmoid())
    torch.testing.assert_close(detector.score(given), torch.stack(columns).mean(0))


def test_rounding_of_the_maps_to_half_precision_hardly_changes_a_score(detector: LayerConvolutions) -> None:
    given = seen(40, 5, 0.5)
    halves = Features(given.layers, given.predictions, maps={n: m.half() for n, m in given.maps.items()})
    torch.testing.assert_close(detector.score(halves), detector.score(given), rtol=0, atol=5e-3)


def test_what_is_learnt_is_the_same_in_chunks_and_in_any_order(monkeypatch: Any) -> None:
    labels, settings = torch.zeros(60).long(), {"hidden": 4, "epochs": 10}
    groups = torch.arange(60)

    def grouped(one: Features, order: Tensor) -> Features:
        return Features(one.layers, one.predictions, groups=groups, maps=one.maps)[order]

    orders = torch.arange(60), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    fits = [
        LayerConvolutions(**settings).fit(grouped(seen(60, 0), order), labels, grouped(seen(60, 1, 2.0), order))
        for order in orders
    ]
    monkeypatch.setattr("medrobust.detectors.layer_convolutions.CHUNK", 500)
    fits.append(
        LayerConvolutions(**settings).fit(grouped(seen(60, 0), orders[0]), labels, grouped(seen(60, 1, 2.0), orders[0]))
    )
    asked = seen(20, 2, 1.0)
    for other in fits[1:]:
        torch.testing.assert_close(other.score(asked), fits[0].score(asked), rtol=0, atol=1e-3)


def test_it_asks_for_maps_of_its_side_and_all_for_the_same() -> None:
    assert LayerConvolutions(side=4).views == Views(maps=4)
    assert views_needed([LayerConvolutions(), LayerNetworks()]).maps == 8
    with pytest.raises(ValueError, match=r"expected to ask for the same side, got \[4, 8\]"):
        views_needed([LayerConvolutions(), LayerConvolutions(side=4)])
    with pytest.raises(ValueError, match="maps is the longest side of maps, or 0 for none, got -1"):
        Views(maps=-1)


def test_maps_of_other_sizes_and_settings_out_of_range_are_refused(detector: LayerConvolutions) -> None:
    given = seen(3, 6)
    smaller = {name: maps[:, :, :3, :3] for name, maps in given.maps.items()}
    with pytest.raises(ValueError, match=r"expected maps of the sizes \[\[3, 6, 6\], \[4, 4, 4\]\], got \[\[3, 3, 3\]"):
        detector.score(Features(given.layers, given.predictions, maps=smaller))
    with pytest.raises(ValueError, match=r"expected maps of the layers \['first', 'second'\], got \['second'\]"):
        detector.score(Features(given.layers, given.predictions, maps={"second": given.maps["second"]}))
    for name in ("side", "hidden", "epochs"):
        with pytest.raises(ValueError, match=f"{name} is a whole number of at least 1, got 0"):
            LayerConvolutions(**{name: 0})
    with pytest.raises(ValueError, match="learning_rate is positive, got -1"):
        LayerConvolutions(learning_rate=-1)
    with pytest.raises(ValueError, match="weight_decay is not negative, got -1"):
        LayerConvolutions(weight_decay=-1)


def test_maps_are_means_over_cells_in_half_precision() -> None:
    """A 4 x 4 ramp in cells of 2 x 2, by hand; what is smaller stays; tokens are a column, vectors a cell."""
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    expected = torch.tensor([[2.5, 4.5], [10.5, 12.5]]).half()
    assert torch.equal(reduced_maps(ramp, 2)[0, 0], expected)
    assert torch.equal(reduced_maps(ramp, 8), ramp.half())
    last = torch.rand(2, 4, 4, 3)  # as some transformers have them
    assert torch.equal(reduced_maps(last, 8), last.permute(0, 3, 1, 2).half())
    assert torch.equal(reduced_maps(torch.ones(2, 5, 3), 8), torch.ones(2, 3, 5, 1).half())
    assert torch.equal(reduced_maps(torch.ones(2, 3), 8), torch.ones(2, 3, 1, 1).half())
    assert reduced_maps(torch.full((1, 1, 1, 1), 1e6), 1).isfinite().all()


def test_an_extractor_gives_the_maps_of_the_same_forward_and_only_on_demand() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    victim, images = as_victim(network).eval(), torch.rand(2, 1, 8, 8)
    calls: list[int] = []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    plain = Extractor(victim, ["1", "3"])(images, torch.zeros(2).long(), ["a", "b"])
    features = Extractor(victim, ["1", "3"], maps=4)(images, torch.zeros(2).long(), ["a", "b"])
    assert len(calls) == 2 and plain.maps is None and features.maps is not None
    assert list(features.maps) == ["1", "3"]
    with torch.no_grad():
        expected = functional.avg_pool2d(network[1](network[0](images)), 2)
    torch.testing.assert_close(features.maps["1"].float(), expected, rtol=1e-3, atol=1e-3)
    assert features.maps["3"].shape == (2, 3, 1, 1)
    assert torch.equal(features.layers["1"], plain.layers["1"])
