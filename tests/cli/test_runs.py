"""A run's configuration, splits and checkpoints: what belongs together stays together, and what was seen is refused."""

import csv
import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cli.main
from cli.runs import splits_of_run
from medrobust.results.records import read_records

CONFIG = """
name: small
seed_everything: 7
model:
  class_path: Classifier
  init_args: {backbone: resnet10t, channels: 1, mean: 0.4, std: 0.3}
data:
  class_path: ChestXRay
  init_args:
    root: xray
    image_size: 32
    channels: 1
    batch_size: 16
    fractions: {train: 0.5, val: 0.1, adv_train: 0.1, adv_test: 0.3}
trainer: {max_epochs: 1, logger: false, accelerator: cpu, devices: 1, enable_progress_bar: false}
attack: {attacks: {fgsm: {class_path: FGSM}}, controls: false}
quality: {download: false}
panels: {count: 0}
"""
PATIENTS = 60


def command(program: str, subcommand: str, *more: Any) -> None:
    """Run a command line in this process."""
    cli.main.main(program, [subcommand, "-c", "small.yaml", *map(str, more)])


def write_xrays(root: Path) -> None:
    """Noise whose brightness tells its class, 60 patients with two images each."""
    random = np.random.default_rng(0)
    for kind, prefix, brightness in (("NORMAL", "IM-{:04d}-{:04d}", 60), ("PNEUMONIA", "person{}_bacteria_{}", 160)):
        (root / "train" / kind).mkdir(parents=True)
        for patient in range(PATIENTS // 2):
            for image in range(2):
                pixels = random.integers(brightness, brightness + 60, (32, 32)).astype(np.uint8)
                name = prefix.format(patient, image)
                Image.fromarray(pixels).save(root / "train" / kind / f"{name}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, and a victim that was fine-tuned on them."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    write_xrays(folder / "xray")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        command("train", "fit")
    return folder


def evaluate(*more: Any) -> None:
    """Evaluate the victim."""
    command("evaluate", "test", "--ckpt_path", "best", *more)


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Callable[..., str]:
    """``refused(program, subcommand, ...)``: the one sentence of a command that is refused."""
    return partial(refusal, command)


def splits(path: Path = Path("runs/small/splits.csv")) -> dict[str, str]:
    """The split of each image."""
    with path.open() as file:
        return {row["id"]: row["split"] for row in csv.DictReader(file)}


def of(split: str) -> list[str]:
    """Ids of a split of the run."""
    return [id for id, home in splits().items() if home == split]


def binding() -> dict[str, Any]:
    """What the evaluation's manifest says of seen images."""
    return json.loads(Path("runs/small/evaluate/manifest.json").read_text())["binding"]


def flags(check: str) -> list[dict[str, Any]]:
    """Flags that a self-check has raised."""
    summary = json.loads(Path("runs/small/evaluate/summary.json").read_text())
    return [flag for flag in summary["flags"] if flag["check"] == check]


def judged_ids() -> set[str]:
    """Ids of the records."""
    return set(read_records("runs/small/evaluate")["id"])


def test_a_checkpoint_holds_what_it_was_trained_on(folder: Path) -> None:
    held = torch.load("runs/small/checkpoints/best.ckpt", weights_only=True)["trained_on"]
    assert (held["class"], held["name"], held["channels"]) == ("ChestXRay", "chest_xray", 1)
    assert held["class_names"] == ["NORMAL", "PNEUMONIA"] and held["image_size"] == 32
    for split in ("train", "val"):
        assert {len(hashes) for hashes in held["splits"][split].values()} == {len(of(split))}
        assert len(held["splits"][split]["patients"].unique()) == len(of(split)) / 2
    assert not any(id in str(held) for id in splits())


def test_an_evaluation_keeps_the_runs_splits_when_an_image_is_gone(folder: Path) -> None:
    gone = of("train")[0]
    (folder / "xray" / gone).unlink()
    with pytest.warns(UserWarning, match=rf"1 of 120 images of .*splits.csv is gone: {gone}"):
        evaluate()
    assert judged_ids() == set(of("adv_test")) and binding()["seen"] == {} and not flags("seen")


def test_a_gone_image_of_the_tested_split_is_left_out(folder: Path) -> None:
    gone = of("adv_test")[0]
    (folder / "xray" / gone).unlink()
    with pytest.warns(UserWarning, match=f"is gone: {gone}"):
        evaluate()
    assert judged_ids() == set(of("adv_test")) - {gone}


def test_a_new_patient_belongs_to_no_split(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (32, 32)).astype(np.uint8)).save(
        folder / "xray/train/NORMAL/IM-0999-0000.png"
    )
    with pytest.warns(UserWarning, match="leaves out 1 of 121 images, which belongs to no split, first .*IM-0999-0000"):
        evaluate()
    assert judged_ids() == set(of("adv_test"))


def test_another_split_seed_does_not_move_images_of_the_run(folder: Path) -> None:
    with pytest.warns(UserWarning, match="data.split_seed is not used: the splits are those of .*splits.csv"):
        evaluate("--data.split_seed", 1)
    assert judged_ids() == set(of("adv_test"))


def test_new_splits_are_refused_by_name_and_number(folder: Path, refused: Callable[..., str]) -> None:
    said = refused("evaluate", "test", "--ckpt_path", "best", "--splits", "new", "--data.split_seed", 1)
    evaluated = len(of("adv_test"))
    assert f"of the {evaluated} images of adv_test, the victim has seen " in said and " in Train" in said
    assert said.count("(the same file)") == 5 and "--attack.seen report" in said
    assert "--splits run" in said and "--data.split_file" in said
    assert not Path("runs/small/evaluate/journal").exists()


def test_train_is_evaluated_on_purpose_and_the_report_says_so(folder: Path, refused: Callable[..., str]) -> None:
    said = refused("evaluate", "test", "--ckpt_path", "best", "--data.test_split", "train")
    count = len(of("train"))
    assert f"of the {count} images of train, the victim has seen {count} in Train" in said
    evaluate("--data.test_split", "train", "--attack.seen", "report")
    assert judged_ids() == set(of("train")) and binding()["seen"] == {"train": count}
    summary = json.loads(Path("runs/small/evaluate/summary.json").read_text())
    assert (summary["flags"][0]["check"], summary["flags"][0]["severity"]) == ("seen", "error")
    sentence = f"Of the {count} images under evaluation, the victim has seen {count} in its Train"
    assert summary["flags"][0]["message"].startswith(sentence)
    assert sentence in Path("runs/small/evaluate/report.html").read_text()


def test_val_is_evaluated_as_before(folder: Path) -> None:
    command("evaluate", "validate", "--ckpt_path", "best")
    records = read_records("runs/small/validate")
    assert set(records["id"]) == set(of("val"))


def test_pixels_of_train_under_another_name_and_format_are_refused(folder: Path, refused: Callable[..., str]) -> None:
    seen, judged = of("train")[0], of("adv_test")[0]
    with Image.open(folder / "xray" / seen) as image:
        image.convert("RGB").save(folder / "xray" / judged, compress_level=1)
    (folder / "xray" / seen).unlink()  # or the copy would be left out with a warning
    said = refused("evaluate", "test", "--ckpt_path", "best")
    assert f"the victim has seen 1 in Train: {judged} (the same pixels under another name)" in said


def test_a_copy_in_a_later_split_is_left_out(folder: Path) -> None:
    seen, judged = of("train")[0], of("adv_test")[0]
    shutil.copy(folder / "xray" / seen, folder / "xray" / judged)
    with pytest.warns(UserWarning, match=f"left out 1 image with the same pixels .*: {judged} of adv_test is {seen}"):
        evaluate()
    assert judged_ids() == set(of("adv_test")) - {judged}


def test_another_image_of_a_seen_patient_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    judged = of("adv_test")[0]
    rows = Path("runs/small/splits.csv").read_text().splitlines()
    patient = next(row.rpartition(",")[2] for row in rows if row.startswith(of("train")[0]))
    image = np.random.default_rng(9).integers(0, 255, (32, 32)).astype(np.uint8)
    name = "IM-0000-0009" if patient.startswith("IM") else "person0_bacteria_9"
    new = f"train/{'NORMAL' if patient.startswith('IM') else 'PNEUMONIA'}/{name.replace('0000', patient[-4:], 1)}.png"
    Image.fromarray(image).save(folder / "xray" / new)
    Path("mine.csv").write_text(f"id,split\n{judged},adv_test\n{new},adv_test\n")
    said = refused("evaluate", "test", "--ckpt_path", "best", "--data.split_file", "mine.csv")
    assert f"of the 2 images of adv_test, the victim has seen 1 in Train: {new} (another image of its patient)" in said


def test_a_changed_image_of_train_is_told(folder: Path) -> None:
    with (folder / "xray" / of("train")[0]).open("ab") as file:
        file.write(b"\0")
    evaluate()
    (flag,) = flags("preparation")
    assert "1 image of Train has other content than when the victim was trained" in flag["message"]


def test_changed_pixels_of_the_tested_split_are_evaluated_anew(folder: Path, refused: Callable[..., str]) -> None:
    evaluate()
    before, path = read_records("runs/small/evaluate"), folder / "xray" / of("adv_test")[0]
    with Image.open(path) as image:
        changed = Image.fromarray(255 - np.asarray(image))
    changed.save(path)
    said = refused("evaluate", "test", "--ckpt_path", "best")
    assert "runs/small/evaluate holds an evaluation on other images or contents of their files" in said
    evaluate("--journal.resume", "false")
    after = read_records("runs/small/evaluate")
    assert len(after) == len(before) and not set(before["key"]) & set(after["key"]) and not flags("clean")


def test_an_older_checkpoint_is_evaluated_and_flagged(folder: Path) -> None:
    path = Path("runs/small/checkpoints/best.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["trained_on"]
    torch.save(checkpoint, path)
    evaluate()
    (flag,) = flags("seen")
    assert "its checkpoint does not say what it was trained on" in flag["message"] and flag["severity"] == "warning"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--model.init_args.mean", "0.5", "was trained with mean 0.4, and mean 0.5 is configured"),
        ("--model.init_args.std", "[0.25]", "was trained with std 0.3, and std 0.25 is configured"),
        ("--data.channels", "3", "was trained on data with channels 1, and these data have 3"),
    ],
)
def test_settings_unlike_the_checkpoints_are_refused(
    folder: Path, refused: Callable[..., str], option: str, value: str, words: str
) -> None:
    assert words in refused("evaluate", "test", "--ckpt_path", "best", option, value)


def test_judges_and_surrogates_that_have_seen_the_images_are_flagged(folder: Path) -> None:
    command("train", "fit", "--name", "other", "--data.split_seed", 1)
    evaluate("--transfer.judges", '{"other": "runs/other"}', "--attack.surrogate", "runs/other")
    messages = [flag["message"] for flag in flags("seen")]
    both = len({id for id, home in splits(Path("runs/other/splits.csv")).items() if home == "train"} & judged_ids())
    assert 0 < both < len(judged_ids()) and len(messages) == 2
    for who, message in zip(("the surrogate", "the judge other"), messages, strict=True):
        assert f"under evaluation, {who} has seen {both} in its Train" in message


def test_training_of_other_settings_into_the_same_folder_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    said = refused("train", "fit", "--data.split_seed", 1)
    assert "data.init_args.split_seed was 0 and is 1" in said and "--overwrite true" in said
    said = refused("train", "fit", "--model.init_args.head", "dense")
    assert "model.init_args.head was 'linear' and is 'dense'" in said
    said = refused("train", "fit", "--model.init_args.options", '{"drop_rate": 0.5}')
    assert "model.init_args.options.drop_rate was None and is 0.5" in said
    said = refused("train", "fit", "--model.init_args.optimizer", "torch.optim.SGD", "--trainer.max_epochs", 2)
    assert "model.init_args.optimizer" in said and "trainer.max_epochs was 1 and is 2" in said
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


def test_training_on_other_data_into_the_same_folder_is_refused(folder: Path, refused: Callable[..., str]) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    (folder / "xray" / of("adv_test")[0]).unlink()
    assert "was trained on other data, of whose train images" in refused("train", "fit")
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


def test_the_same_training_again_is_no_other(folder: Path) -> None:
    before = torch.load("runs/small/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    command("train", "fit")
    after = torch.load("runs/small/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_training_that_replaces_another_leaves_no_checkpoint_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    from lightning_modules import Classifier

    def killed(*_: Any) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "training_step", killed)
        with pytest.raises(SystemExit):
            command("train", "fit", "--data.split_seed", 1, "--overwrite", "true")
    assert not list(Path("runs/small/checkpoints").glob("*.ckpt"))
    assert "overwrite: false" in Path("runs/small/train.yaml").read_text()
    assert "there is no checkpoint" in refused("evaluate", "test", "--ckpt_path", "best")
    command("train", "fit", "--data.split_seed", 1)
    evaluate()
    assert judged_ids() == set(of("adv_test"))


def test_training_goes_on_with_the_runs_splits_and_not_on_other_images(
    folder: Path, refused: Callable[..., str]
) -> None:
    before = splits()
    Image.fromarray(np.random.default_rng(9).integers(0, 255, (32, 32)).astype(np.uint8)).save(
        folder / "xray/train/NORMAL/IM-0999-0000.png"
    )
    command("train", "fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert splits() == before
    (folder / "xray" / of("train")[0]).unlink()
    said = refused("train", "fit", "--ckpt_path", "last", "--trainer.max_epochs", 3)
    assert "was trained on other data, of whose train images 1 gone, 0 new, 0 changed" in said
    assert splits() == before


def test_training_goes_on_with_its_own_settings_alone(
    folder: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    again = ("train", "fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    said = refused(*again, "--model.init_args.optimizer.init_args.lr", 0.5)
    assert "runs/small was trained with other settings: model.init_args.optimizer.init_args.lr was " in said
    assert "-c runs/small/train.yaml" in said and "max_epochs" not in said
    assert "data.init_args.image_size was 32 and is 48" in refused(*again, "--data.image_size", 48)
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    command(*again, "--trainer.limit_train_batches", 1, "--trainer.max_time", "00:01:00:00")
    assert torch.load("runs/small/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert "nothing is left" not in capsys.readouterr().out


def test_a_training_that_is_complete_says_that_nothing_is_left(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/small").rename("runs/copy")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.ckpt")}
    capsys.readouterr()
    command("train", "fit", "--name", "copy", "--ckpt_path", "last")
    said = capsys.readouterr().out
    assert "nothing is left to train: 1 epoch is done; give more with --trainer.max_epochs (now 1)" in said
    assert "runs/copy/checkpoints/best.ckpt" in said and "runs/small" not in said
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*.ckpt")}


def test_splits_of_data_of_another_class_are_computed_anew_with_a_sentence(folder: Path) -> None:
    checkpoint = "runs/small/checkpoints/best.ckpt"
    with pytest.warns(
        UserWarning, match="splits are computed anew.*of the class ChestXRay, and Phantom.* is configured"
    ):
        assert splits_of_run(checkpoint, {"class_path": "datamodules.PhantomChestXRay"}) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert splits_of_run(checkpoint, {"class_path": "datamodules.ChestXRay"}) is not None
