"""Replays: one record of an evaluation is made again, alone or among its batch, and compared; nothing else changes."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import torch
import yaml

import cli.main
from cli import replay
from medrobust.results.manifest import read_manifest
from medrobust.results.records import read_records
from tests.programs import one_thread, run_here, small_config

CONFIG = small_config(
    """attack:
  attacks:
    fgsm: {class_path: FGSM, init_args: {epsilon: 32/255}}
    pgd: {class_path: PGD, init_args: {epsilon: 1, step_size: 0.1, steps: 8}}
  controls: false
detection:
  detectors: {distance: {class_path: Mahalanobis}}
  fit_on: [pgd]
  folds: 2
quality: {download: false, ssim: false}
panels: {count: 0}
""",
    root="home",
    patients=60,
    batch_size=6,
    fractions=(0.5, 0.1, 0.2, 0.2),
    normalisation="mean: 0.4, std: 0.3",
    trainer="max_epochs: 1, logger: false",
)
AWAY = "data: {class_path: PhantomChestXRay, init_args: {root: away, patients: 12, side: 40, generator_seed: 5}}\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim that was fine-tuned on phantoms, and its evaluation with a detector."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "away.yaml").write_text(AWAY)
    run_here(folder, "train.py", "fit", "-c", "small.yaml")
    run_here(folder, "evaluate.py", "test", "-c", "runs/small/train.yaml", "-c", "small.yaml", "--ckpt_path", "best")
    return folder


def replayed(*words: object) -> int:
    """Run a replay in this process; its exit status."""
    try:
        with one_thread():
            cli.main.main("evaluate", ["replay", *map(str, words)])
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.fixture
def said(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``said(...)``: exit status, the words on standard output without line breaks, and the error of a replay."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = replayed(*words)
        printed = capsys.readouterr()
        error = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        return status, " ".join(printed.out.split()), error[0] if error else ""

    return call


def rows(name: str = "evaluate", **wanted: Any) -> list[dict[str, Any]]:
    """Records of the run with some values."""
    return list(read_records(Path("runs/small") / name).filter(**wanted).iter_rows(named=True))


def hashes(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its content."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def change_weights(path: Path) -> None:
    """Negate one weight of a checkpoint."""
    held = torch.load(path, weights_only=True)
    name = next(name for name in held["state_dict"] if name.endswith("weight"))
    held["state_dict"][name].flatten()[0] *= -1
    torch.save(held, path)


def test_a_success_and_a_failure_are_made_again_and_nothing_else_changes(folder: Path, said: Any) -> None:
    before = hashes(folder / "runs")
    record = next(row for row in rows(attack="fgsm") if row["success"])
    # a batch has the same rounding; the image alone need not
    status, out, error = said("runs/small/evaluate", "--record", f"{record['key']}:{record['id']}", "--batch")
    assert (status, error) == (0, "")
    assert "images of its batch, equal: all" in out and "bit for bit" in out and "not made" not in out
    assert "detector_distance_pgd " in out and f"fgsm at 32/255 on {record['id']}" in out
    record = next(row for row in rows(attack="pgd") if not row["success"])
    status, out, error = said("runs/small/evaluate", "--record", f"{record['key'][:6]}:{record['id']}")
    assert (status, error) == (0, "") and "alone, equal" in out
    assert hashes(folder / "runs") == before


def test_images_are_written_as_they_were_attacked(folder: Path, said: Any) -> None:
    record = next(row for row in rows(attack="fgsm") if row["success"])
    out = folder / "made again"
    assert said("runs/small/evaluate", "--record", f"{record['key']}:{record['id']}", "--out", out)[0] == 0
    clean, adversarial = (np.load(out / f"{name}.npy") for name in ("clean", "adversarial"))
    assert clean.dtype == np.float32 and clean.shape == (1, 32, 32)
    difference = adversarial - clean
    assert abs(difference).max() == record["linf"]
    assert np.isclose(np.linalg.norm(difference.astype(np.float64)), record["l2"], rtol=1e-6)
    for name, values in (("clean", clean), ("adversarial", adversarial)):
        picture = cv2.imread(str(out / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint16 and abs(picture / 65535 - values[0]).max() <= 0.5 / 65535 + 1e-9
    grey = cv2.imread(str(out / "perturbation.png"), cv2.IMREAD_UNCHANGED) / 65535
    assert abs(grey - 0.5 - difference[0] * 0.5 / abs(difference).max()).max() < 1e-4
    about = json.loads((out / "record.json").read_text())
    assert about["recorded"]["id"] == about["replayed"]["id"] == record["id"] and "equal" in about["verdict"]


def test_another_checkpoint_is_told(folder: Path, said: Any) -> None:
    record = rows(attack="fgsm")[0]
    change_weights(folder / "runs/small/checkpoints/best.ckpt")
    status, out, error = said("runs/small/evaluate", "--record", f"{record['key']}:{record['id']}")
    weights = read_manifest("runs/small/evaluate")["victim"]["weights"]
    assert status == 1 and out == ""
    assert error.startswith("error: the record cannot be made again: the victim's weights are ")
    assert f"and were {weights}" in error


def test_a_record_that_says_something_else_is_told_by_its_columns(folder: Path, said: Any) -> None:
    path = folder / "runs/small/evaluate/records.parquet"
    record = next(row for row in rows(attack="fgsm") if row["success"])
    this = (pl.col("key") == record["key"]) & (pl.col("id") == record["id"])
    changed = pl.when(this).then(pl.col("l2") * 1.5).otherwise("l2")
    pl.read_parquet(path).with_columns(l2=changed).write_parquet(path)
    status, out, error = said("runs/small/evaluate", "--record", f"{record['key']}:{record['id']}")
    assert status == 1 and "differs by" in out
    assert "images of its batch, it is another record: l2 was" in error and "more differ" not in error


def test_unknown_keys_and_ids_are_answered_by_the_nearest(folder: Path, said: Any) -> None:
    record = rows(attack="fgsm")[0]
    place, key, image = "runs/small/evaluate", record["key"], record["id"]
    status, out, error = said(place, "--record", f"{key}:{image[:-6]}.jpg")
    assert status == 2 and "fgsm at 32/255) has no record of an image" in error and repr(image) in error
    status, out, error = said(place, "--record", f"zzzz:{image}")
    assert status == 2 and "there is no attack of that key" in error and f"{key} (fgsm at 32/255)" in error
    assert (
        said(place, "--record", image)[2] == f"error: --record is expected to be KEY:ID, the key of an attack and "
        f"the id of an image, got {image!r}"
    )
    assert said("runs/small", "--record", f"{key}:{image}")[0] == 2
    assert said(place)[0] == 2
    inside = said(place, "--record", f"{key}:{image}", "--out", "runs/small/evaluate/again")
    assert inside[0] == 2 and "in which a replay changes nothing" in inside[2]
    assert said(place, "--record", f"{key}:{image}", "--data.rot", "x")[0] == 2
    negative = said(place, "--record", f"{key}:{image}", "--tolerance", "-1")
    assert negative[0] == 2 and negative[2].endswith("at least 0, got -1.0")


def test_a_run_that_was_moved_and_has_lost_its_detectors(folder: Path, said: Any) -> None:
    shutil.move(folder / "runs/small", folder / "kept")
    shutil.rmtree(folder / "kept/evaluate/detectors")
    record = read_records(folder / "kept/evaluate").row(0, named=True)
    status, out, error = said("kept/evaluate", "--record", f"{record['key']}:{record['id']}", "--batch")
    assert (status, error) == (0, "") and "not compared, since no fitted detector or model is there" in out
    assert not (folder / "kept/evaluate/detectors").exists() and not (folder / "runs/small").exists()


@pytest.mark.slow
def test_images_of_val(folder: Path, said: Any) -> None:
    words = (
        "-c",
        "runs/small/train.yaml",
        "-c",
        "small.yaml",
        "--ckpt_path",
        "best",
        "--detection.detectors=null",
        "--attack.seen=report",
    )
    run_here(folder, "evaluate.py", "validate", *words)
    record = rows("validate", attack="fgsm")[0]
    status, out, error = said("runs/small/validate", "--record", f"{record['key']}:{record['id']}")
    assert (status, error) == (0, "") and "alone, equal" in out


@pytest.mark.slow
def test_data_of_another_hospital(folder: Path, said: Any) -> None:
    words = (
        "-c",
        "runs/small/train.yaml",
        "-c",
        "small.yaml",
        "--ckpt_path",
        "best",
        "--data",
        "away.yaml",
        "--detection.detectors=null",
    )
    run_here(folder, "evaluate.py", "test", *words)
    place = "evaluate_on/phantom_chest_xray@away"
    record = rows(place, attack="pgd")[0]
    status, out, error = said(f"runs/small/{place}", "--record", f"{record['key']}:{record['id']}", "--batch")
    assert (status, error) == (0, "") and "bit for bit" in out


def test_other_pictures_are_told_by_their_fingerprint(folder: Path, said: Any) -> None:
    record = rows(attack="fgsm")[0]
    (folder / "home" / record["id"]).unlink()
    status, _, error = said("runs/small/evaluate", "--record", f"{record['key']}:{record['id']}")
    assert status == 1 and f"the split adv_test has no image {record['id']!r} any more" in error
    other = rows(attack="fgsm")[1]
    status, _, error = said("runs/small/evaluate", "--record", f"{other['key']}:{other['id']}")
    assert status == 1 and "the images or their preparation are others" in error


def test_what_was_not_evaluated_by_a_command_has_no_configuration(folder: Path, said: Any) -> None:
    record = rows(attack="fgsm")[0]
    (folder / "runs/small/evaluate/evaluate.yaml").unlink()
    status, _, error = said("runs/small/evaluate", "--record", f"{record['key']}:{record['id']}")
    assert status == 2 and "only what evaluate.py has evaluated can be replayed" in error


def test_the_command_of_the_evidence_is_one_that_works(folder: Path, said: Any) -> None:
    found = json.loads((folder / "runs/small/evaluate/evidence.json").read_text())
    words = found["counterexamples"]["commands"][0]["command"].split()
    assert words[:3] == ["python", "evaluate.py", "replay"] and said(*words[3:])[0] == 0
    checkpoint = (folder / "runs/small/checkpoints/best.ckpt").read_bytes()
    assert found["fingerprints"]["checkpoint"]["values"]["sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert yaml.safe_load((folder / "runs/small/evaluate/evaluate.yaml").read_text())["name"] == found["run"]


def test_help_names_replay(capsys: pytest.CaptureFixture[str]) -> None:
    assert replayed("--help") == 0
    assert "--record KEY:ID" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main.main("evaluate", ["--help"])
    assert ended.value.code == 0 and "replay" in capsys.readouterr().out


def test_a_replay_of_no_record_is_told_how_to_name_one() -> None:
    with pytest.raises(ValueError, match="say which record: --record KEY:ID, as the report"):
        replay.parser().parse_args(["runs/small/evaluate"])
