"""Random bias fields: of the family and the bound of the adversarial one, and each image's own."""

import math
from typing import Any

import pytest
import torch

from medrobust.attacks import RandomBiasField
from medrobust.attacks.bias_field import Polynomials, roughness
from medrobust.networks import as_victim
from medrobust.random_streams import per_image_uniform

STOP = math.log(2)


def attacked(conv_net: Any, images: torch.Tensor, ids: list[str], **fields: Any) -> Any:
    return RandomBiasField(**fields)(as_victim(conv_net(3)), images, torch.arange(len(images)) % 3, ids)


@pytest.mark.parametrize("warp", [0.0, 0.063])
@pytest.mark.parametrize("stops", [0.5, 1.0, 2.0])
def test_every_field_reaches_its_bound_and_none_is_beyond(stops: float, warp: float, conv_net: Any) -> None:
    images = 0.25 * torch.rand((6, 3, 20, 13))
    made = attacked(conv_net, images, list("abcdef"), max_stops=stops, warp=warp)
    field = made.pictures["bias_field"]
    largest = field.flatten(1).abs().amax(1)
    assert float(largest.max()) <= stops * STOP
    torch.testing.assert_close(largest, torch.full((6,), stops * STOP))
    torch.testing.assert_close(made.images, images * field.exp())
    assert torch.equal(made.measures["field_largest"], largest)
    torch.testing.assert_close(made.measures["field_roughness"], roughness(field))
    assert bool(made.measures["warp_folds"].any()) == bool(warp)
    assert not made.backwards.any()
    assert made.forwards.tolist() == [1] * 6


def test_without_a_warp_it_is_the_sum_of_the_papers_terms(conv_net: Any) -> None:
    """Coefficients from the image's own stream: B = sum a_tl x^t y^l, up to its scale."""
    images = torch.full((1, 3, 5, 7), 0.1)
    field = attacked(conv_net, images, ["a"], degree=3, lowest_degree=1).pictures["bias_field"][0, 0]
    terms = Polynomials(3, 1, 2, images).terms
    a = per_image_uniform(["a"], terms.shape, 0, "RandomBiasField", images)[0]
    x, y = torch.linspace(-1, 1, 7).expand(5, 7), torch.linspace(-1, 1, 5)[:, None].expand(5, 7)
    expected = a[0, 0] * x * y + a[0, 1] * x * y**2 + a[1, 0] * x**2 * y
    torch.testing.assert_close(field, expected / expected.abs().max() * STOP)


@pytest.mark.parametrize("warp", [0.0, 0.05])
def test_a_field_belongs_to_an_id_and_only_its_size_to_the_bound(warp: float, conv_net: Any) -> None:
    images = torch.full((3, 3, 16, 16), 0.2)
    one, other = (attacked(conv_net, images, list("abc"), max_stops=stops, warp=warp) for stops in (0.5, 2.0))
    torch.testing.assert_close(one.pictures["bias_field"] * 4, other.pictures["bias_field"])
    alone = attacked(conv_net, images[:1], ["b"], max_stops=0.5, warp=warp)
    torch.testing.assert_close(alone.pictures["bias_field"][0], one.pictures["bias_field"][1])
    assert not torch.allclose(one.pictures["bias_field"][0], one.pictures["bias_field"][1], atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_stops": -1.0}, "max_stops bounds the change in photographic stops and is positive, got -1.0"),
        ({"warp": -0.1}, "warp is a standard deviation of coordinates and is not negative, got -0.1"),
        ({"lowest_degree": 6}, "lowest_degree lies in"),
        ({"gridsize": 1}, "gridsize counts control points"),
    ],
)
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomBiasField(**fields)
