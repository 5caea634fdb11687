"""Saved detectors: what is loaded scores like what was saved, in a new process too, and nothing else is loaded."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from medrobust.detectors.base import Detector
from medrobust.detectors.deep_features import DeepFeatures
from medrobust.detectors.features import Features
from medrobust.detectors.layer_networks import LayerNetworks
from medrobust.detectors.quantized_features import QuantizedFeatures
from medrobust.detectors.saving import load_detectors, read_header, save_detectors
from medrobust.detectors.support_vectors import SupportVectors

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, torch
import medrobust.detectors
from medrobust.detectors.features import Features
from medrobust.detectors.saving import load_detectors
layers = torch.load(sys.argv[2])
given = Features(layers, torch.zeros(len(layers["late"]), dtype=torch.long))
loaded = load_detectors(sys.argv[1], "victim")
torch.save({name: detector.score(given) for name, detector in loaded.items()}, sys.argv[3])
"""


class OddBuffers(Detector):
    """Stores tensors of every kind, some of which are views of one another."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        super().fit_reference(clean, labels)
        whole = torch.arange(12.0).view(3, 4)
        self.keep(whole=whole, turned=whole.T, row=whole[1], count=torch.tensor(3), empty=torch.zeros(0, 2))
        self.keep(other_empty=torch.zeros(2, 0), marks=torch.tensor([True, False]), short=whole.half())

    def measure(self, features: Features) -> Tensor:
        return features.penultimate

    def fit_classifier(self, negative: Tensor, positive: Tensor) -> None:
        raise NotImplementedError

    def classify(self, measured: Tensor) -> Tensor:
        return self.scale * measured.sum(1)


def features(count: int, seed: int, shift: float = 0.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: torch.randn((count, size), generator=generator) + shift for name, size in (("early", 6), ("late", 9))
    }
    return Features(layers, torch.zeros(count, dtype=torch.long))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, dict[str, Detector]]:
    clean, labels = features(60, 0), torch.zeros(60, dtype=torch.long)
    kinds = [
        SupportVectors(penalty=2.0),
        LayerNetworks(hidden=8, epochs=20),
        DeepFeatures(trees=7, seed=5),
        QuantizedFeatures(levels=4),
    ]
    fitted = {type(kind).__name__: kind.fit(clean, labels, features(30, 1, 1.0)) for kind in kinds}
    path = tmp_path_factory.mktemp("saved") / "folder" / "pgd.safetensors"
    assert save_detectors(path, fitted, "victim", "pgd", {"seed": 3, "n": [60, 30]}) == path
    return path, fitted


def with_header(path: Path, target: Path, **changes) -> Path:
    """The same tensors under another header."""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    save_file(tensors, target, {"detectors": json.dumps({**read_header(path), **changes})})
    return target


def test_what_is_loaded_is_what_was_saved(saved) -> None:
    path, fitted = saved
    loaded, test = load_detectors(path, "victim"), features(40, 2, 0.5)
    assert list(loaded) == list(fitted)
    for name, detector in fitted.items():
        assert type(loaded[name]) is type(detector)
        assert loaded[name].parameters_given() == detector.parameters_given()
        assert loaded[name].layer_names == detector.layer_names == ["early", "late"]
        assert torch.equal(loaded[name].score(test), detector.score(test))
        for buffer, values in detector.named_buffers():
            assert torch.equal(loaded[name].get_buffer(buffer), values)
            assert loaded[name].get_buffer(buffer).dtype == values.dtype


@pytest.mark.processes
def test_a_new_process_scores_the_same(saved, tmp_path) -> None:
    path, fitted = saved
    test = features(40, 2, 0.5)
    torch.save(test.layers, tmp_path / "layers.pt")
    files = [str(path), str(tmp_path / "layers.pt"), str(tmp_path / "scores.pt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", SCRIPT, *files], cwd=ROOT, env=environment, check=True, timeout=120)
    scores = torch.load(tmp_path / "scores.pt")
    assert list(scores) == list(fitted)
    assert all(torch.equal(scores[name], detector.score(test)) for name, detector in fitted.items())


def test_the_header_says_what_the_file_holds(saved) -> None:
    header = read_header(saved[0])
    assert header["format"] == 2 and header["victim"] == "victim" and header["fitted_on"] == "pgd"
    assert header["about"] == {"seed": 3, "n": [60, 30]}
    entry = header["detectors"]["DeepFeatures"]
    assert (entry["class"], entry["parameters"]) == ("DeepFeatures", {"trees": 7, "seed": 5})
    assert entry["layers"] == ["early", "late"]
    assert set(entry["buffers"]) == {name for name, _ in saved[1]["DeepFeatures"].named_buffers()}


def test_the_same_detectors_make_the_same_file(saved, tmp_path) -> None:
    path, fitted = saved
    again = save_detectors(tmp_path / "again", fitted, "victim", "pgd", {"seed": 3, "n": [60, 30]})
    assert again.read_bytes() == path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["again"]


def test_what_forks_share_is_stored_once_and_shared_again(tmp_path) -> None:
    clean = features(60, 0)
    detector = LayerNetworks(hidden=4, epochs=5).fit(clean, torch.zeros(60, dtype=torch.long))
    detector.keep(large=torch.randn(100_000))
    forks = {name: detector.fork() for name in ("pgd", "fgsm", "both")}
    for place, fork in enumerate(forks.values()):
        fork.fit_classifier(fork.measure(clean), fork.measure(features(30, 1 + place, 1.0)))
    path = save_detectors(tmp_path / "forks", forks, "victim", list(forks))
    assert path.stat().st_size < 1.2 * 400_000
    loaded = load_detectors(path, "victim")
    assert len({fork.get_buffer("large").data_ptr() for fork in loaded.values()}) == 1
    assert len({fork.get_buffer("first").data_ptr() for fork in loaded.values()}) == 3
    for name, fork in forks.items():
        assert torch.equal(loaded[name].score(clean), fork.score(clean))


def test_tensors_of_every_kind_come_back(tmp_path) -> None:
    detector = OddBuffers(0.5).fit(features(4, 0), torch.zeros(4, dtype=torch.long))
    detector.register_buffer("unused", None)
    loaded = load_detectors(save_detectors(tmp_path / "odd", {"odd": detector}, "victim", None), "victim")["odd"]
    assert loaded.scale == 0.5
    expected = dict(detector.named_buffers())
    assert len(expected) == 9 and set(dict(loaded.named_buffers())) == set(expected)
    for name, values in expected.items():
        assert torch.equal(loaded.get_buffer(name), values) and loaded.get_buffer(name).dtype == values.dtype


def test_what_is_loaded_in_inference_mode_serves_outside_of_it(saved) -> None:
    with torch.inference_mode():
        loaded = load_detectors(saved[0], "victim", torch.device("cpu"))
    assert not any(values.is_inference() for detector in loaded.values() for values in detector.buffers())


def test_a_loaded_detector_does_not_need_its_file(saved, tmp_path) -> None:
    path, fitted = saved
    copy, test = tmp_path / "copy", features(10, 2)
    copy.write_bytes(path.read_bytes())
    loaded = load_detectors(copy, "victim")
    copy.write_bytes(bytes(path.stat().st_size))
    assert all(torch.equal(loaded[name].score(test), detector.score(test)) for name, detector in fitted.items())


def test_another_victim_is_refused(saved) -> None:
    with pytest.raises(ValueError, match=r"detectors of the victim 'victim', expected those of 'another'"):
        load_detectors(saved[0], "another")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.99, 0.999999])
def test_a_file_of_which_only_a_part_was_written_is_refused(share: float, saved, tmp_path) -> None:
    content = saved[0].read_bytes()
    torn = tmp_path / "torn"
    torn.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="torn is damaged or not a file of detectors"):
        load_detectors(torn, "victim")


def test_a_file_of_something_else_is_refused(saved, tmp_path) -> None:
    (tmp_path / "text").write_text("these are no detectors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "weights")
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign", {"detectors": "no JSON"})
    torch.save(saved[1]["SupportVectors"].state_dict(), tmp_path / "pickle")
    (tmp_path / "folder").mkdir()
    for name in ("text", "weights", "foreign", "pickle", "folder"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not a file of detectors"):
            load_detectors(tmp_path / name, "victim")
    with pytest.raises(ValueError, match="there is no file .*nowhere"):
        load_detectors(tmp_path / "nowhere", "victim")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 1}, "of format 1, expected format 2: fit the detectors again"),
        ({"format": None}, "of format None, expected format 2"),
        ({"detectors": None}, "its header is incomplete"),
        ({"detectors": {"a": {"class": "SupportVectors"}}}, "its header is incomplete"),
        ({"class": "Missing"}, "there is no detector class 'Missing' to load"),
        ({"class": "SupportVectorDetector"}, "there is no detector class 'SupportVectorDetector' to load"),
        ({"class": "Module"}, "there is no detector class 'Module' to load"),
        ({"parameters": {"depth": 3}}, "does not hold what its header says: TypeError.*depth"),
        ({"parameters": {"penalty": -1}}, "does not hold what its header says: ValueError.*penalty"),
        ({"buffers": {"gamma": "nowhere"}}, "does not hold what its header says: KeyError.*nowhere"),
        ({"buffers": {"fit": "SupportVectors.gamma"}}, "does not hold what its header says: KeyError.*fit"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(changes, message, saved, tmp_path) -> None:
    if not changes.keys() & {"format", "detectors"}:
        entry = read_header(saved[0])["detectors"]["SupportVectors"]
        changes = {"detectors": {"SupportVectors": {**entry, **changes}}}
    with pytest.raises(ValueError, match=message):
        load_detectors(with_header(saved[0], tmp_path / "changed", **changes), "victim")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(saved, tmp_path, monkeypatch) -> None:
    path, fitted = saved
    target = tmp_path / "detectors"
    target.write_bytes(path.read_bytes())

    def half_written(place: Path, content: bytes) -> None:
        with place.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(OSError, match=f"No space left on device: '{target}'"):
        save_detectors(target, fitted, "victim", "pgd")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["detectors"]
    assert list(load_detectors(target, "victim")) == list(fitted)


def test_what_cannot_be_saved_is_refused(saved, tmp_path) -> None:
    with pytest.raises(ValueError, match="SupportVectors is not fitted yet"):
        save_detectors(tmp_path / "file", {"one": SupportVectors()}, "victim", "pgd")
    with pytest.raises(ValueError, match="about cannot be written as JSON"):
        save_detectors(tmp_path / "file", saved[1], "victim", "pgd", {"when": object()})
    with pytest.raises(ValueError, match="fitted_on cannot be written as JSON"):
        save_detectors(tmp_path / "file", saved[1], "victim", {1, 2})
    odd = OddBuffers(torch.tensor(1.0)).fit(features(4, 0), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="the settings of 'odd' cannot be written as JSON"):
        save_detectors(tmp_path / "file", {"odd": odd}, "victim", "pgd")
    assert not list(tmp_path.iterdir())
