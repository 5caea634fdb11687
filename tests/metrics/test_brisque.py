"""BRISQUE: its statistics on distributions of known shape, its halving by hand, its scores on LIVE's own images."""

import io
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import piq
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from medrobust.metrics import brisque, quality
from medrobust.metrics.brisque import PIQ_GAMMA, PIQ_RHO, PIQ_WEIGHTS, VARIABLE, Brisque, find_brisque
from medrobust.metrics.scene_statistics import GREY, asymmetric_shape, gaussian_shape, halve, natural_scene_statistics

LIVE = Path(__file__).resolve().parents[3] / "shared/data/brisque"
COUNT = 30

real = [pytest.mark.real, pytest.mark.skipif(not LIVE.is_dir(), reason="no BRISQUE model beside the checkout")]


def pictures(count: int = 4, channels: int = 1, height: int = 48, width: int = 40) -> Tensor:
    """Blurred noise of growing contrast: some structure at both scales."""
    generator = torch.Generator().manual_seed(height)
    noise = torch.randn((count, channels, height + 4, width + 4), generator=generator, dtype=torch.float64)
    smooth = functional.avg_pool2d(noise, 5, stride=1)
    return (0.5 + torch.linspace(0.2, 1, count).view(-1, 1, 1, 1) * smooth).clamp(0, 1)


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A random regression, with piq's ranges of the features."""
    generator = torch.Generator().manual_seed(2)
    vectors = 2 * torch.rand((COUNT, 36), generator=generator) - 1
    vectors[0, 3] = 0
    coefficients = 200 * torch.rand(COUNT, generator=generator) - 100
    scale = sys.modules["piq.brisque"]._scale_features
    offset = scale(torch.zeros(1, 36, dtype=torch.float64))[0]
    slope = scale(torch.ones(1, 36, dtype=torch.float64))[0] - offset
    return vectors, coefficients, (-1 - offset) / slope, (1 - offset) / slope


def model() -> Brisque:
    """The same regression as a module."""
    return Brisque(*parts(), PIQ_GAMMA, PIQ_RHO)


def write_live(folder: Path) -> Path:
    """Write the model as libsvm does, which leaves zeros out."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors, coefficients, lowest, highest = (part.tolist() for part in parts())
    rows = [
        f"{coefficient!r} " + " ".join(f"{place}:{value!r}" for place, value in enumerate(row, 1) if value)
        for coefficient, row in zip(coefficients, vectors, strict=True)
    ]
    head = ["svm_type epsilon_svr", "kernel_type rbf", f"gamma {PIQ_GAMMA}", "nr_class 2", f"total_sv {COUNT}"]
    (folder / "allmodel").write_text("\n".join([*head, f"rho {PIQ_RHO}", "probA 5.7", "SV", *rows]) + "\n")
    limits = [f"{place} {low!r} {high!r}" for place, (low, high) in enumerate(zip(lowest, highest, strict=True), 1)]
    (folder / "allrange").write_text("\n".join(["x", "-1 1", *limits]) + "\n")
    return folder


def write_piq(file: Path) -> Path:
    """Write the model as piq's weights are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    vectors, coefficients, *_ = parts()
    torch.save((coefficients, vectors), file)
    return file


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where piq looks for its weights; there are none, no model is named, and a download fails the test."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    downloads(monkeypatch, lambda: pytest.fail("no download was expected"))
    return tmp_path / "torch/hub/checkpoints" / PIQ_WEIGHTS


def downloads(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[], object]) -> None:
    """Let piq's first call run `fetch` if no weights are cached."""
    module = sys.modules["piq.brisque"]
    original = module.load_url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / PIQ_WEIGHTS

    def load(*arguments: object, **options: object) -> object:
        return original(*arguments, **options) if cached.is_file() else fetch()

    monkeypatch.setattr(module, "load_url", load)


def generalised_gaussian(shape: float, count: int = 200_000) -> Tensor:
    """Magnitudes of samples with the density exp(-|x|^shape): their power is distributed as a gamma variable."""
    generator = np.random.default_rng(3)
    return torch.tensor(generator.gamma(1 / shape, size=count) ** (1 / shape))


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_the_shape_of_a_generalised_gaussian_is_found(shape: float) -> None:
    magnitudes = generalised_gaussian(shape)
    signs = 1 - 2 * (torch.arange(len(magnitudes)) % 2)
    found, variance = gaussian_shape(torch.stack([signs * magnitudes, 3 * signs * magnitudes]))

    log_variance = torch.lgamma(torch.tensor(3 / shape)) - torch.lgamma(torch.tensor(1 / shape))
    torch.testing.assert_close(found, torch.full((2,), shape).double(), rtol=0.02, atol=0)
    torch.testing.assert_close(variance, log_variance.exp() * torch.tensor([1.0, 9.0]).double(), rtol=0.02, atol=0)


def test_shapes_of_two_values_and_of_one_lie_at_the_ends_of_the_grid() -> None:
    two_values = torch.tensor([[-1.0, 1.0] * 8, [0.0] * 15 + [1.0]], dtype=torch.float64)
    shape, variance = gaussian_shape(two_values)
    # (E|x|)^2 / E x^2 is 1, above the limit 3/4 of ever larger shapes; and 1/16
    assert float(shape[0]) == 10 and 0.2 <= float(shape[1]) < 0.6 and variance.tolist() == [1, 1 / 16]


@pytest.mark.parametrize(("shape", "left", "right"), [(1.0, 1.0, 1.0), (0.8, 0.5, 2.0), (2.0, 3.0, 1.0)])
def test_both_sides_of_an_asymmetric_gaussian_are_found(shape: float, left: float, right: float) -> None:
    magnitudes = generalised_gaussian(shape)
    share = round(len(magnitudes) * left / (left + right))  # the density is continuous at 0
    values = torch.cat([-left * magnitudes[:share], right * magnitudes[share:]])[None]
    found = [float(value) for value in asymmetric_shape(values)]

    gamma = {k: float(torch.lgamma(torch.tensor(k / shape)).exp()) for k in (1, 2, 3)}
    expected = [shape, (right - left) * gamma[2] / gamma[1], *(gamma[3] / gamma[1] * s**2 for s in (left, right))]
    assert found == pytest.approx(expected, rel=0.03, abs=0.02)


def test_values_of_one_sign_have_no_asymmetric_shape() -> None:
    values = torch.rand((3, 50), dtype=torch.float64) + 0.1
    values[1] = -values[1]
    values[2, :25] *= -1
    _, mean, left, right = asymmetric_shape(values)
    assert mean.isnan().tolist() == [True, True, False]
    assert left.isnan().tolist() == [True, False, False] and right.isnan().tolist() == [False, True, False]


def test_halving_a_step_is_the_antialiased_cubic() -> None:
    # weights at 1/2, 3/2, 5/2, 7/2 pixels are cubic(1/4, 3/4, 5/4, 7/4) / 2 = (111, 29, -9, -3) / 256
    step = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.float64)
    expected = torch.tensor([-3, 29 - 9 - 3, 256 - 29 + 9 + 3, 256 + 3]).double() / 256
    torch.testing.assert_close(halve(step.expand(6, 8)), expected.expand(3, 4))
    torch.testing.assert_close(halve(step[:, None].expand(8, 5)), expected[:, None].expand(4, 3))


def test_halving_mirrors_at_the_edges_and_rounds_odd_sides_up() -> None:
    point = torch.zeros(7, 7, dtype=torch.float64)
    point[0, 6] = 1
    halved = halve(point)
    # output v takes pixels 2v - 3 to 2v + 4. Of the rows the 0th is also the one before it; the columns are eight with
    # the last one mirrored, so that output 2 takes pixel 6 at the sixth and again at the seventh weight
    rows = torch.tensor([29 + 111, -3 - 9, 0, 0]).double() / 256
    columns = torch.tensor([0, -3, 29 - 9, 111 + 111]).double() / 256
    assert halved.shape == (4, 4)
    torch.testing.assert_close(halved, rows[:, None] * columns)


def test_halving_is_the_antialiased_interpolation_of_torch_inside_the_edges() -> None:
    images = torch.rand((2, 3, 20, 26), dtype=torch.float64)
    reference = functional.interpolate(images, (10, 13), mode="bicubic", antialias=True)
    torch.testing.assert_close(halve(images)[..., 2:-2, 2:-2], reference[..., 2:-2, 2:-2])


def test_a_score_is_the_weighted_sum_of_kernels() -> None:
    vectors = torch.zeros(2, 36)
    vectors[1, 4] = 1
    bounds = torch.zeros(36), torch.full((36,), 2.0)  # features of 1 are scaled to 0
    regression = Brisque(vectors, torch.tensor([3.0, 5.0]), *bounds, 0.5, -7.0)
    features = torch.ones(2, 36, dtype=torch.float64)
    features[1, 0] = 3  # scaled to 2

    expected = torch.tensor([3 + 5 * np.exp(-0.5), 3 * np.exp(-2.0) + 5 * np.exp(-2.5)]) + 7
    torch.testing.assert_close(regression(features), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_has_the_same_score_in_any_batch(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(6, channels).float()
    before = images.clone()
    scores = model().score(images)

    assert scores.shape == (6,) and scores.dtype == torch.float64 and scores.isfinite().all()
    assert len(scores.unique()) == 6 and torch.equal(images, before)
    singly = torch.cat([model().score(image[None]) for image in images])
    torch.testing.assert_close(scores, singly, rtol=0, atol=1e-9)
    monkeypatch.setitem(quality.PART, "cpu", 4 * images[0].numel())
    torch.testing.assert_close(model().score(images), scores, rtol=0, atol=1e-9)


def test_grey_images_have_the_score_of_colours_without_colour() -> None:
    eight_bit = (255 * pictures()).round() / 255
    torch.testing.assert_close(model().score(eight_bit), model().score(eight_bit.expand(-1, 3, -1, -1)))
    assert sum(GREY) == pytest.approx(1, abs=1e-12)


def test_colours_are_mixed_as_matlab_does_and_grey_levels_are_whole() -> None:
    colours = pictures(2, 3)
    mixed = (colours * torch.tensor([0.2989, 0.5870, 0.1140], dtype=torch.float64).view(1, 3, 1, 1)).sum(1, True)
    whole = (255 * mixed).round() / 255
    torch.testing.assert_close(natural_scene_statistics(colours), natural_scene_statistics(whole), rtol=0.02, atol=0.01)


def test_a_perturbation_of_less_than_a_grey_level_counts_in_a_grey_image() -> None:
    eight_bit = (255 * pictures(1)).round() / 255
    noise = 0.3 / 255 * (2 * torch.rand(eight_bit.shape, generator=torch.Generator().manual_seed(4)) - 1)
    assert abs(float(model().score(eight_bit) - model().score(eight_bit + noise))) > 1e-6


def test_a_constant_image_has_no_score_and_its_neighbours_keep_theirs() -> None:
    images = pictures(5)
    expected = model().score(images)
    images[0], images[2], images[4] = 0, 0.7, 0.7 + 1e-7 * torch.rand(1, 48, 40)
    scores = model().score(images)

    assert scores.isnan().tolist() == [True, False, True, False, True]
    torch.testing.assert_close(scores[[1, 3]], expected[[1, 3]])
    assert model().score(torch.full((1, 3, 32, 32), 0.3)).isnan().all()


def test_an_image_that_is_too_small_has_no_score() -> None:
    assert model().score(torch.rand(2, 1, 15, 40)).isnan().all()
    assert model().score(pictures(2, height=16, width=17)).isfinite().all()


def test_channels_other_than_one_or_three_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2, 32, 32\]"):
        model().score(torch.rand(1, 2, 32, 32))


def test_piq_agrees_on_grey_images_of_even_sides(hub: Path) -> None:
    write_piq(hub)
    images = (255 * pictures(3, 1, 64, 64)).round() / 255
    reference = piq.brisque(images, reduction="none").flatten()
    torch.testing.assert_close(model().score(images), reference, rtol=0, atol=1e-5)


def test_the_model_is_read_from_files_of_both_kinds(tmp_path: Path) -> None:
    folder, weights = write_live(tmp_path / "live"), write_piq(tmp_path / "weights.pt")
    expected = model().score(pictures())
    for found in (
        Brisque.from_files(folder / "allmodel", folder / "allrange"),
        Brisque.from_piq(weights),
        find_brisque(str(folder)),
        find_brisque(str(weights)),
    ):
        assert found is not None
        torch.testing.assert_close(found.score(pictures()), expected, rtol=0, atol=1e-6)


def test_the_fingerprint_follows_every_number() -> None:
    vectors, coefficients, lowest, highest = parts()
    original = model()
    assert original.fingerprint == model().fingerprint == pickle.loads(pickle.dumps(original)).fingerprint
    changed = [
        Brisque(vectors + 1e-6, coefficients, lowest, highest, PIQ_GAMMA, PIQ_RHO),
        Brisque(vectors, 2 * coefficients, lowest, highest, PIQ_GAMMA, PIQ_RHO),
        Brisque(vectors, coefficients, lowest - 1, highest, PIQ_GAMMA, PIQ_RHO),
        Brisque(vectors, coefficients, lowest, highest + 1, PIQ_GAMMA, PIQ_RHO),
        Brisque(vectors, coefficients, lowest, highest, 0.06, PIQ_RHO),
        Brisque(vectors, coefficients, lowest, highest, PIQ_GAMMA, -153),
    ]
    fingerprints = {regression.fingerprint for regression in [original, *changed]}
    assert len(fingerprints) == 7 and all(len(fingerprint) == 16 for fingerprint in fingerprints)


def test_a_model_of_other_shapes_or_with_non_finite_numbers_is_refused() -> None:
    vectors, coefficients, lowest, highest = parts()
    with pytest.raises(ValueError, match=r"\[30, 35\]"):
        Brisque(vectors[:, 1:], coefficients, lowest, highest, PIQ_GAMMA, PIQ_RHO)
    with pytest.raises(ValueError, match="coefficients .* finite"):
        Brisque(vectors, coefficients * float("nan"), lowest, highest, PIQ_GAMMA, PIQ_RHO)
    with pytest.raises(ValueError, match="above"):
        Brisque(vectors, coefficients, highest, lowest, PIQ_GAMMA, PIQ_RHO)


def lines_of(file: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change a text file line by line."""
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("allmodel", lambda lines: lines[:-1]),
        ("allmodel", lambda lines: ["svm_type c_svc", *lines[1:]]),
        ("allmodel", lambda lines: [line.replace("36:", "37:") for line in lines]),
        ("allmodel", lambda lines: lines[:3]),
        ("allmodel", lambda lines: [line.replace("1:", "one:") for line in lines]),
        ("allrange", lambda lines: lines[:-1]),
        ("allrange", lambda lines: [lines[0], "0 1", *lines[2:]]),
        ("allrange", lambda lines: [*lines[:-1], "36 0.1"]),
        ("allrange", lambda lines: []),
    ],
)
def test_a_damaged_file_is_one_sentence_and_no_model(
    name: str, change: Callable[[list[str]], list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_live(tmp_path / "live")
    lines_of(folder / name, change)
    assert find_brisque(str(folder)) is None
    assert len(caplog.records) == 1 and "\n" not in caplog.messages[0] and str(folder) in caplog.messages[0]


def test_weights_of_another_kind_are_one_sentence_and_no_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"some": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    for name in ("other.pt", "text.pt", "absent.pt", "empty"):
        caplog.clear()
        assert find_brisque(str(tmp_path / name)) is None
        assert len(caplog.records) == 1 and "\n" not in caplog.messages[0] and name in caplog.messages[0]


def test_the_option_goes_before_the_environment_and_that_before_piq(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, weights = write_live(tmp_path / "live"), write_piq(tmp_path / "weights.pt")
    write_piq(hub)
    other = tmp_path / "other.pt"
    torch.save((2 * parts()[1], parts()[0]), other)

    def found(path: str | None = None) -> str:
        regression = find_brisque(path)
        assert regression is not None
        return regression.fingerprint

    assert found() == Brisque.from_piq(hub).fingerprint
    monkeypatch.setenv(VARIABLE, str(other))
    assert found() == Brisque.from_piq(other).fingerprint != Brisque.from_piq(hub).fingerprint
    assert found(str(weights)) == Brisque.from_piq(weights).fingerprint
    assert found(str(folder)) == Brisque.from_files(folder / "allmodel", folder / "allrange").fingerprint
    monkeypatch.setenv(VARIABLE, "")
    assert found() == Brisque.from_piq(hub).fingerprint


def test_piq_downloads_its_weights_at_first_use(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch() -> tuple[Tensor, Tensor]:
        return torch.load(io.BytesIO(write_piq(hub).read_bytes()))

    downloads(monkeypatch, fetch)
    found = find_brisque(download=True)
    assert found is not None and found.fingerprint == Brisque.from_piq(hub).fingerprint


def refuse() -> None:
    """A machine without a network."""
    raise URLError("Temporary failure in name resolution")


def test_a_download_that_fails_is_one_sentence_and_no_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    downloads(monkeypatch, refuse)
    with caplog.at_level(logging.INFO):
        assert find_brisque(download=True) is None
    assert len(caplog.records) == 1
    assert "name resolution" in caplog.messages[0] and "--quality.brisque" in caplog.messages[0]


def test_a_download_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()
    downloads(monkeypatch, lambda: released.wait(60))
    monkeypatch.setattr(brisque, "DOWNLOAD_SECONDS", 0.2)
    assert find_brisque(download=True) is None
    released.set()
    assert len(caplog.records) == 1 and "no answer within 0.2 seconds" in caplog.messages[0]


def test_nothing_is_downloaded_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    downloads(monkeypatch, lambda: pytest.fail("piq was asked to download"))
    assert find_brisque() is None
    assert (
        len(caplog.records) == 1 and "there is no model on this machine (--quality.download true" in caplog.messages[0]
    )
    assert caplog.records[0].levelname == "INFO"  # nobody has asked for it


def live_image(number: int) -> Tensor:
    """One of the release's two test images, ``(1, 3, H, W)``."""
    with Image.open(LIVE / f"testimage{number}.png") as picture:
        return torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(("number", "original", "by_piq"), [(1, 97.430, 97.437), (2, 32.040, 32.057)])
class TestLive:
    pytestmark = real

    def test_the_score_is_the_originals(self, number: int, original: float, by_piq: float) -> None:
        found = find_brisque(str(LIVE))
        assert found is not None
        assert float(found.score(live_image(number))) == pytest.approx(original, abs=0.05)

    def test_both_agree_with_piq(self, number: int, original: float, by_piq: float, hub: Path) -> None:
        live = Brisque.from_files(LIVE / "allmodel", LIVE / "allrange")
        hub.parent.mkdir(parents=True)
        torch.save((live.coefficients.float(), live.vectors.float()), hub)
        assert float(piq.brisque(live_image(number))) == pytest.approx(by_piq, abs=0.03)
        found = find_brisque(download=True)
        assert found is not None
        assert float(found.score(live_image(number))) == pytest.approx(original, abs=0.05)

    def test_the_other_halvings_are_wrong_by_twenty_points(
        self, number: int, original: float, by_piq: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def plain(images: Tensor) -> Tensor:
            return functional.interpolate(images[:, None], scale_factor=0.5, mode="bicubic")[:, 0]

        monkeypatch.setattr("medrobust.metrics.scene_statistics.halve", plain)
        found = find_brisque(str(LIVE))
        assert found is not None
        assert float(found.score(live_image(number))) > original + 20
