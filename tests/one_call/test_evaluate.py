"""An evaluation in one call: of models of several origins, stopped and resumed, and as the command line makes it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medrobust import as_victim, evaluate
from medrobust.attacks import FGSM, PGD
from medrobust.detectors import Mahalanobis
from medrobust.evaluation import Crafter, EvaluationListener
from medrobust.evaluation.pace import Pace
from medrobust.listeners import Detection, Panels, Quality, RecordJournal
from medrobust.one_call.console_progress import ConsoleProgress
from medrobust.results.manifest import read_manifest
from medrobust.results.records import read_records
from tests.tiny_networks import LinearNet

ROOT = Path(__file__).resolve().parents[2]
COUNT = 12
IMAGES = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(COUNT) % 2
QUICK: dict[str, Any] = {"progress": False}


class Net(nn.Module):
    """A network with a BatchNorm and dropout, which an evaluation must leave alone."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten())
            self.head = nn.Linear(144, outputs)
            with torch.no_grad():  # or one class would always win
                self.eval()
                self.head.bias.sub_(self.head(self.stem(torch.rand(32, 1, 8, 8))).mean(0))
                self.train()

    def forward(self, images: Tensor) -> Any:
        return self.head(self.stem(images))


class Huggish(Net):
    """Returns a dictionary, as models of transformers do."""

    def forward(self, pixel_values: Tensor) -> Any:
        return {"loss": None, "logits": super().forward(pixel_values)}


def truths(model: Any, images: Tensor = IMAGES) -> Tensor:
    """The classes that a model names, so that it is right about all images."""
    victim = as_victim(model).eval()
    with torch.no_grad():
        return victim(images).argmax(1)


def of(records: pl.DataFrame, attack: str) -> pl.DataFrame:
    return records.filter(attack=attack).sort("id")


def test_a_plain_module_is_evaluated_and_left_as_it_was(tmp_path: Path) -> None:
    model = Net().train()
    model.stem[0].weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(11)
    drawn = torch.rand(3)
    torch.manual_seed(11)
    result = evaluate(model, (IMAGES, TARGETS), ["fgsm", PGD(steps=2)], ["1/255", "8/255"], folder=tmp_path, **QUICK)

    assert torch.equal(torch.rand(3), drawn)  # the caller's random numbers are its own
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert bool((model.head.weight.grad == 1).all()) and model.head.bias.grad is None
    assert len(result.records) == 3 * 2 * COUNT and set(result.records["victim"]) == {"Net"}
    assert set(result.records["attack"]) == {"noise", "fgsm", "pgd"}
    assert result.records.filter(attack="fgsm")["epsilon"].unique().sort().to_list() == [1 / 255, 8 / 255]
    assert {"psnr", "ssim"} <= set(result.records.columns)
    assert result.report == tmp_path / "report.html" and result.report.is_file()
    assert result.summary == json.loads((tmp_path / "summary.json").read_text())
    assert result.records.equals(read_records(tmp_path))
    assert any("fewer than 30" in flag["message"] for flag in result.flags)
    assert result.headline in repr(result) and str(result.report) in repr(result)
    manifest = read_manifest(tmp_path)
    assert manifest["run"] == tmp_path.name and manifest["victim"]["input"] == [1, 8, 8]
    assert manifest["attacks"][-1]["parameters"]["epsilon"] == 8 / 255


def test_a_hugging_face_like_model_in_a_loader_of_dictionaries_is_the_plain_one(tmp_path: Path) -> None:
    model, plain = Huggish(), Net()
    rows = [{"pixel_values": image, "labels": int(target)} for image, target in zip(IMAGES, truths(plain))]
    options: dict[str, Any] = {"attacks": {"pgd": PGD(steps=3, epsilon=0.1)}, **QUICK}
    one = evaluate(model, DataLoader(rows, batch_size=5), folder=tmp_path / "one", **options)
    other = evaluate(plain, (IMAGES, truths(plain)), folder=tmp_path / "other", **options)
    assert of(one.records, "pgd")["correct_before"].all() and of(one.records, "pgd")["success"].any()
    columns = ["id", "target", "success", "adversarial_prediction", "clean_prediction"]
    assert one.records.select(columns).equals(other.records.select(columns))
    assert set(one.records["victim"]) == {"Huggish"}


def test_a_model_of_several_labels_is_evaluated_by_its_sigmoids(tmp_path: Path) -> None:
    net = LinearNet(3).eval()
    victim = as_victim(nn.Sequential(net, nn.Sigmoid()), output="label_sigmoids")
    labels = (net(IMAGES) > 0).long()
    labels[0, 0] = -1  # not known
    options: dict[str, Any] = {"class_names": ["mass", "nodule", "effusion"], **QUICK}
    result = evaluate(victim, (IMAGES, labels.float()), "pgd", 0.2, folder=tmp_path, **options)
    pgd = of(result.records, "pgd")
    assert pgd["correct_before"].all() and pgd["success"].any() and pgd["target"].null_count() == COUNT
    assert read_manifest(tmp_path)["data"]["task"] == "multilabel"
    assert result.summary["labels"]["names"] == options["class_names"]
    options.pop("class_names")
    again = evaluate(victim, (IMAGES, labels.float()), "pgd", 0.2, folder=tmp_path / "numbered", **options)
    assert again.summary["labels"]["names"] == ["label 0", "label 1", "label 2"]


def test_a_model_with_one_logit_moves_by_the_norm_of_its_weights(tmp_path: Path) -> None:
    images = torch.cat([torch.full((1, 1, 8, 8), 0.5 + 0.02 * step) for step in range(-6, 6)]) + 0.007
    targets = (images.mean((1, 2, 3)) > 0.5).long()
    result = evaluate(
        as_victim(lambda images: 10 * (images.mean((1, 2, 3)) - 0.5), output="one_logit"),
        (images, targets[:, None]),
        PGD(epsilon=0.05),
        folder=tmp_path,
        **QUICK,
    )
    pgd = of(result.records, "pgd")
    distance = (images.mean((1, 2, 3)) - 0.5).abs()
    assert pgd["correct_before"].all() and pgd["success"].to_list() == (distance < 0.0499).tolist()
    expected = torch.sigmoid(10 * (distance - 0.05)).double().numpy()
    np.testing.assert_allclose(pgd["quality_after"].to_numpy()[distance > 0.05], expected[distance > 0.05], atol=1e-5)


def test_masks_of_a_plain_segmenter(tmp_path: Path) -> None:
    class Bright(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": 10 * images - 5}

    images = torch.full((4, 1, 8, 8), 0.4)
    images[:, :, :4] = 0.6
    masks = (images[:, 0] > 0.5).long()
    victim = as_victim(Bright(), output="masks")
    result = evaluate(victim, (images, masks), "pgd", [0.05, 0.15], folder=tmp_path, **QUICK)
    found = result.records.filter(attack="pgd")
    assert found["correct_before"].all()
    assert found.filter(pl.col("epsilon") == 0.05)["success"].sum() == 0
    assert found.filter(pl.col("epsilon") == 0.15)["quality_after"].max() == 0


def test_arrays_with_channels_last_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    array = (IMAGES.permute(0, 2, 3, 1) * 255).byte().numpy()
    with pytest.raises(ValueError, match=r"torch.from_numpy\(images\).permute\(0, 3, 1, 2\) / 255$"):
        evaluate(Net(), (array, TARGETS.numpy()), "fgsm", folder=tmp_path / "never", **QUICK)
    with pytest.raises(ValueError, match="counted from 0 to 1, and image '00011-.*' has the target 7"):
        targets = torch.where(torch.arange(COUNT) == 11, 7, TARGETS)
        evaluate(Net(), (IMAGES, targets), "fgsm", folder=tmp_path / "never", **QUICK)
    assert not (tmp_path / "never" / "manifest.json").exists() and not list(tmp_path.rglob("*.jsonl"))


class Stops(EvaluationListener):
    """Stops an evaluation after some batches."""

    def __init__(self, after: int) -> None:
        self.left = after

    def on_evaluation_identity(self, *_: Any) -> dict[str, Any]:
        return {}

    def on_adversarial_batch(self, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_call_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, crafted: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    def call(folder: str, *listeners: EvaluationListener, **options: Any) -> Any:
        given = {"folder": tmp_path / folder, "listeners": listeners, "batch_size": 5, **QUICK}
        return evaluate(Net(), (IMAGES, TARGETS), [FGSM(), PGD(steps=2)], 0.05, **given, **options)

    with pytest.raises(KeyboardInterrupt):
        call("stopped", Stops(4))
    assert "the same call goes on from there" in caplog.text
    assert not (tmp_path / "stopped" / "writer.lock").exists() and not (tmp_path / "stopped" / "report.html").exists()
    crafted.clear()
    resumed = call("stopped")
    assert crafted == [("FGSM", 5), ("PGD", 5), ("UniformNoise", 2), ("FGSM", 2), ("PGD", 2)]
    whole = call("whole")
    assert resumed.records.drop("run").equals(whole.records.drop("run"))
    crafted.clear()
    assert call("whole").records.equals(whole.records) and not crafted
    call("whole", limit=5, resume=False)
    assert [count for _, count in crafted] == [5, 5, 5]


def test_detectors_learn_from_a_reference_and_judges_are_other_models(tmp_path: Path) -> None:
    model, other = Net(), LinearNet(2)
    reference = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    options: dict[str, Any] = {
        "detectors": {"maha": Mahalanobis()},
        "judges": {"linear": other, "self": model},
        "reference": (reference, truths(model, reference)),
        **QUICK,
    }
    result = evaluate(model, (IMAGES, truths(model)), {"pgd": PGD(steps=3)}, 0.1, folder=tmp_path, **options)
    pgd = of(result.records, "pgd")
    assert pgd["detector_maha_same"].null_count() == 0 and pgd["judge_self_after"].equals(
        pgd["correct_after"].rename("judge_self_after")
    )
    right = as_victim(other).eval()(IMAGES).argmax(1) == truths(model)
    assert pgd["judge_linear_before"].to_list() == right.tolist()
    assert (tmp_path / "detectors").is_dir()
    with pytest.raises(ValueError, match="learn from clean images that are not evaluated .*and none are given"):
        options.pop("reference")
        evaluate(model, (IMAGES, TARGETS), "fgsm", folder=tmp_path / "none", **options)
    with pytest.raises(ValueError, match="judge three: class_names|judge three: the victim|judge three: .*"):
        evaluate(model, (IMAGES, TARGETS), "fgsm", folder=tmp_path / "none", judges={"three": nn.Conv2d(3, 2, 1)})


def test_listeners_take_the_place_of_the_usual_ones(tmp_path: Path) -> None:
    listeners = [Panels(count=1), Quality(ssim=False, download=False)]
    data = (IMAGES, TARGETS)
    result = evaluate(Net(), data, "fgsm", 0.1, folder=tmp_path, listeners=listeners, controls=False, **QUICK)
    assert "ssim" not in result.records.columns and set(result.records["attack"]) == {"fgsm"}
    assert len(list((tmp_path / "panels").glob("*.json"))) == 2 and listeners[0].folder == ""
    for wrong, words in (
        ({"listeners": [RecordJournal("x")]}, "the journal is kept by evaluate itself"),
        ({"listeners": [Detection()], "detectors": {"m": Mahalanobis()}}, "detectors are given twice"),
        ({"listeners": ["Panels"]}, "listeners derive from EvaluationListener, got a str"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(Net(), data, "fgsm", folder=tmp_path / "wrong", **wrong, **QUICK)


def test_settings_are_those_of_the_command_line(tmp_path: Path) -> None:
    crafter = Crafter(goals="least_likely", deployment=False)
    aimed = PGD(steps=2, targeted=True)
    result = evaluate(
        Net(3), (IMAGES, TARGETS), aimed, 0.1, folder=tmp_path, crafter=crafter, seed=4, probabilities=True, **QUICK
    )
    assert set(result.records["seed"]) == {4} and result.records["goal"].null_count() == COUNT  # of the noise
    assert any(name.startswith("probability") for name in result.records.columns)
    for wrong, kind, words in (
        ({"epsilons": 8}, ValueError, r"did you mean 8/255\?"),
        ({"limit": 0}, ValueError, "limit counts images and is at least 1, got 0"),
        ({"batch_size": 0}, ValueError, "batch_size counts images"),
        ({"detector": {}}, TypeError, "evaluate has no option 'detector'; did you mean 'detectors'?"),
    ):
        with pytest.raises(kind, match=words):
            evaluate(Net(), (IMAGES, TARGETS), "fgsm", folder=tmp_path / "wrong", **wrong, **QUICK)


def test_progress_is_a_bar_on_a_terminal_and_a_line_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    batches: dict[str, Any] = {"batch_size": 2, "limit": 8}
    evaluate(Net(), (IMAGES, TARGETS), FGSM(), 0.1, folder=tmp_path / "lines", **batches)
    plan, first = capsys.readouterr().err.splitlines()  # it took no half minute
    assert plan == "lines: 2 attacks x 8 images"
    assert re.fullmatch(r"lines: 4 of 16 attacked images, about \d+ s left; fgsm 0.1 \(2/2\)", first)
    monkeypatch.setattr("medrobust.one_call.console_progress.Pace", lambda: Pace(0.0))
    evaluate(Net(), (IMAGES, TARGETS), FGSM(), "1/255", folder=tmp_path / "lines")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("lines: 24 of 24 attacked images") and lines[-1].endswith("fgsm 1/255 (2/2)")
    monkeypatch.setattr("medrobust.one_call.console_progress.has_bar", lambda: True)
    evaluate(Net(), (IMAGES, TARGETS), FGSM(), 0.1, folder=tmp_path / "bar")
    assert "24/24" in capsys.readouterr().err
    evaluate(Net(), (IMAGES, TARGETS), FGSM(), 0.1, folder=tmp_path / "quiet", progress=False)
    assert capsys.readouterr().err == ""


def test_a_closed_bar_says_nothing(capsys: Any) -> None:
    progress = ConsoleProgress("run")
    progress.close()
    progress.close()
    assert capsys.readouterr().err == ""


def test_the_records_are_those_of_the_command_line(tmp_path: Path, run_of: Any) -> None:
    from datamodules import PhantomChestXRay
    from lightning_modules import Classifier
    from tests.programs import one_thread, run_here

    victim = Classifier("resnet10t", channels=1)
    run_of(tmp_path / "runs" / "small", victim)
    given = {"root": str(tmp_path / "phantom"), "image_size": 32, "channels": 1, "batch_size": 4, "limit": 6}
    made = {**given, "patients": 40, "side": 32}
    attacks = {"pgd": {"class_path": "PGD", "init_args": {"steps": 3}}}
    arguments = ["test", "--model", "Classifier", "--model.backbone", "resnet10t", "--model.channels", "1"]
    arguments += ["--data", "PhantomChestXRay", *(f"--data.{name}={value}" for name, value in made.items())]
    arguments += ["--name", "small", "--runs", str(tmp_path / "runs"), "--ckpt_path", "best", "--splits", "new"]
    arguments += ["--attack.attacks", json.dumps(attacks), "--attack.epsilons", "[2/255]", "--trainer.logger", "false"]
    arguments += ["--trainer.accelerator", "cpu", "--quality.download", "false", "--seed_everything", "1"]
    run_here(tmp_path, "evaluate.py", *arguments, "--trainer.enable_progress_bar", "false")
    data = PhantomChestXRay(**made)
    data.prepare_data()
    data.setup("test")
    victim.trainer = None
    loader = data.dataloader_of("adv_test")
    named = {"pgd": PGD(steps=3)}
    options: dict[str, Any] = {"class_names": data.class_names, "name": data.name, **QUICK}
    with one_thread():
        result = evaluate(victim, loader, named, "2/255", folder=tmp_path / "call", **options)
        same = evaluate(victim, data, named, "2/255", folder=tmp_path / "data", seen="report", **QUICK)
    here, there = (
        frame.sort("attack", "id").drop("key", "run", "split", "patient")
        for frame in (result.records, read_records(tmp_path / "runs" / "small" / "evaluate"))
    )
    assert len(here) == 2 * len(data.splits["adv_test"])
    assert here.columns == there.columns
    assert here.equals(there)

    found = read_records(tmp_path / "runs" / "small" / "evaluate")
    assert same.records.drop("run").equals(found.drop("run"))  # with their keys


SCRIPT = """
import sys
import torch
from torch import distributed, nn
import medrobust
assert "torch" in sys.modules and "polars" not in sys.modules
from medrobust import evaluate
from medrobust.attacks import PGD

rank = int(sys.argv[2])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1] + "/meet", rank=rank, world_size=2)
torch.manual_seed(0)
images, targets = torch.rand(9, 1, 8, 8), torch.arange(9) % 2
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
result = evaluate(model, (images, targets), PGD(steps=2), 0.05, folder=sys.argv[1] + "/pair", batch_size=4)
alone = {"pytorch_lightning", "lightning", "lightning_fabric"} & {name.split(".")[0] for name in sys.modules}
assert not alone, alone
assert len(result.records) == 18 and result.report.is_file()
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_attack_each_image_once_without_lightning(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    commands = [[sys.executable, "-c", SCRIPT, str(tmp_path), str(rank)] for rank in (0, 1)]
    started = [subprocess.Popen(one, env=environment, text=True, stderr=subprocess.PIPE) for one in commands]
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said[-3000:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images, targets = torch.rand(9, 1, 8, 8), torch.arange(9) % 2
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    alone = evaluate(model, (images, targets), PGD(steps=2), 0.05, folder=tmp_path / "alone", batch_size=4, **QUICK)
    assert len(list((tmp_path / "pair" / "journal").glob("rank-*.jsonl"))) == 2
    lines = sum(len(path.read_text().splitlines()) for path in (tmp_path / "pair" / "journal").glob("*.jsonl"))
    assert lines == 18
    assert alone.records.select("id", "attack", "success").equals(
        read_records(tmp_path / "pair").select("id", "attack", "success")
    )


def test_the_package_itself_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, medrobust; assert 'torch' not in sys.modules; assert 'evaluate' in dir(medrobust)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0


def test_boxes_of_a_victim_of_the_project_in_batches_of_dictionaries(tmp_path: Path) -> None:
    from tests.bright_boxes import batch_of, trained

    images, targets = batch_of(range(1, 7))
    batches = [(images[:4], targets[:4]), (images[4:], targets[4:])]
    names = ["bright", "dark"]
    options: dict[str, Any] = {"class_names": names, "controls": False, **QUICK}
    result = evaluate(trained(), batches, PGD(steps=6), 0.1, folder=tmp_path, **options)
    found = result.records.sort("id")
    assert [len(json.loads(row)) for row in found["boxes_true"]] == [number % 4 for number in range(1, 7)]
    assert found["quality_before"].mean() > 0.8 > found["quality_after"].mean()
    assert read_manifest(tmp_path)["data"]["task"] == "boxes" and result.summary["boxes"]["names"] == names


def test_the_callers_precision_decides_no_record_and_is_left_alone(tmp_path: Path) -> None:
    net, attack = Net().eval(), PGD(steps=2, random_start=True)
    plain = evaluate(net, (IMAGES, TARGETS), attack, folder=tmp_path / "plain", **QUICK).records
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = evaluate(net, (IMAGES, TARGETS), attack, folder=tmp_path / "inside", **QUICK).records
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert inside.drop("run").equals(plain.drop("run"))


def test_a_sigmoid_that_is_said_to_be_a_logit_is_refused_before_an_attack(tmp_path: Path) -> None:
    net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Sigmoid())
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match="if a sigmoid has made them, say output='one_sigmoid'"):
        evaluate(as_victim(net, output="one_logit"), (images, torch.arange(20) % 2), "pgd", folder=tmp_path, **QUICK)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 2.5}, "limit is a number of images, got 2.5"),
        ({"limit": True}, "limit is a number of images, got True"),
        ({"limit": 0}, "limit counts images and is at least 1, got 0"),
        ({"batch_size": "8"}, "batch_size is a number of images, got '8'"),
        ({"seed": 2**70}, "the seed of noise is a whole number of at most 63 bits"),
        ({"resume": "no"}, "resume is True or False, got 'no'"),
        ({"seen": "x"}, "seen is one of refuse, report, got 'x'"),
        ({"judges": [nn.Flatten()]}, "judges is a dictionary of models by name, got a list"),
        ({"detectors": {"a": 3}}, "detectors are Detectors by name, got a int under 'a'"),
        ({"listeners": [3]}, "listeners derive from EvaluationListener, got a int"),
        ({"crafter": 3}, "crafter is a Crafter, got 3"),
        ({"class_names": "ab"}, "class_names are different texts"),
        ({"class_names": ["a", "a"]}, "class_names are different texts"),
        ({"device": "meta"}, "device is one that this machine has, such as cpu or cuda, got 'meta'"),
        ({"folder": ""}, "folder is that of the results, such as runs/mine, got an empty text"),
    ],
    ids=str,
)
def test_an_option_of_another_kind_is_refused_in_a_sentence(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"folder": "x", **QUICK, **options}
    with pytest.raises(ValueError, match=words):
        evaluate(Net(), (IMAGES, TARGETS), FGSM(), **given)
    assert not list(tmp_path.iterdir())


def test_what_is_refused_names_the_options_of_python(tmp_path: Path) -> None:
    evaluate(Net(), (IMAGES, TARGETS), FGSM(), "8/255", folder=tmp_path / "held", **QUICK)
    with pytest.raises(ValueError, match="of its own, which keeps both, or replace the one that is there by resume=F"):
        evaluate(Net(), (IMAGES, TARGETS), FGSM(), "8/255", folder=tmp_path / "held", probabilities=True, **QUICK)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="no results can be written into .*file: file exists"):
        evaluate(Net(), (IMAGES, TARGETS), FGSM(), folder=tmp_path / "file", **QUICK)


def test_weights_without_gradients_are_refused(tmp_path: Path) -> None:
    with torch.inference_mode():
        net = Net()
    with pytest.raises(ValueError, match=r"weights made in torch.inference_mode\(\): load them outside"):
        evaluate(net, (IMAGES, TARGETS), FGSM(), folder=tmp_path, **QUICK)
