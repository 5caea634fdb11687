"""Evaluations by the command line: attacks are added, named ones lie beside, and nothing that is there is lost."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli.main
from cli.command_checks import check_attacks_given
from cli.config_files import ConfigFile
from medrobust.results.evaluations import evaluations_of
from medrobust.results.records import read_records
from medrobust.results.summary import read_summary
from tests.programs import small_config

CONFIG = small_config(
    """attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 2/255}}}, fit_batches: 1}
quality: {download: false}
panels: {count: 1}
""",
    root="home",
    patients=40,
    fractions=(0.5, 0.1, 0.2, 0.2),
    normalisation="mean: 0.4, std: 0.3",
    trainer="max_epochs: 1, logger: false",
)
SUITES = {
    "bim": "attack: {attacks: {bim: {class_path: BIM, init_args: {epsilon: 8/255, steps: 2}}}}",
    "fgsm": "attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 8/255}}}}",
    "changed": "attack: {attacks+: {fgsm: {init_args: {epsilon: 8/255}}}}",
}


def command(program: str, *words: Any) -> None:
    """Run a command line in this process."""
    cli.main.main(program, list(map(str, words)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim that was fine-tuned on phantoms, watched by a small attack."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    for name, text in SUITES.items():
        (folder / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        command("train", "fit", "-c", "small.yaml")
    return folder


def evaluate(*more: Any, suite: str = "fgsm", subcommand: str = "test") -> None:
    """Evaluate the victim by one of the suites."""
    words = ("-c", "runs/small/train.yaml", *(("-c", f"{suite}.yaml") if suite else ()))
    command("evaluate", subcommand, *words, "--ckpt_path", "best", *more)


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Callable[..., str]:
    """``refused(...)``: the one sentence of an evaluation that is refused."""
    return partial(refusal, evaluate)


def rows(folder: str = "runs/small/evaluate") -> list[tuple[str, int]]:
    """Names and numbers of images of a summary's rows."""
    return [(row["attack"], row["n"]) for row in read_summary(folder)["rows"]]


def content(folder: Path) -> dict[Path, bytes]:
    """The content of every file of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_attacks_join_and_their_configurations_are_kept(folder: Path) -> None:
    evaluate(suite="fgsm")
    before, configuration = rows(), Path("runs/small/evaluate/evaluate.yaml").read_text()
    pictures = set(Path("runs/small/evaluate/panels").iterdir())
    evaluate(suite="bim")
    assert rows() == [*before, ("bim", before[0][1])]
    assert Path("runs/small/evaluate/evaluate-1.yaml").read_text() == configuration
    assert set(yaml.safe_load(Path("runs/small/evaluate/evaluate.yaml").read_text())["attack"]["attacks"]) == {"bim"}
    assert pictures < set(Path("runs/small/evaluate/panels").iterdir())
    page = Path("runs/small/evaluate/report.html").read_text()
    assert page.count(">fgsm<") and page.count(">bim<")
    evaluate(suite="fgsm")
    assert rows() == [*before, ("bim", before[0][1])]
    evaluate("--journal.resume", "false", suite="fgsm")
    assert rows() == before and not Path("runs/small/evaluate/evaluate-1.yaml").exists()


def test_a_refused_evaluation_changes_no_file(folder: Path, refused: Callable[..., str]) -> None:
    evaluate()
    before = content(folder / "runs")
    said = refused("--data.limit", 3)
    assert "runs/small/evaluate holds an evaluation with limit None (now 3), whose tables would be lost" in said
    assert "--evaluation NAME, which keeps both" in said and "--journal.resume false" in said
    assert "with image_size 32 (now 48)" in refused("--data.image_size", 48)
    assert "without input_defence" in refused("--attack.input_defence", "BitDepth")
    assert content(folder / "runs") == before
    evaluate("--data.limit", 3, "--evaluation", "three")
    assert rows("runs/small/evaluations/three")[0] == ("clean", 3)
    after = content(folder / "runs")
    assert {path: after[path] for path in before} == before
    found = [path.relative_to("runs/small").as_posix() for path in evaluations_of(Path("runs/small"))]
    assert found == ["evaluate", "evaluations/three"]


def test_a_victim_that_was_trained_anew_is_another_one(folder: Path, refused: Callable[..., str]) -> None:
    evaluate()
    before = content(folder / "runs/small/evaluate")
    command("train", "fit", "-c", "small.yaml", "--seed_everything", 8, "--overwrite", "true")
    assert "runs/small/evaluate holds an evaluation of other weights" in refused()
    evaluate("--evaluation", "anew")
    assert content(folder / "runs/small/evaluate") == before
    evaluate("--journal.resume", "false")
    keys = [set(read_records(path)["key"]) for path in evaluations_of(Path("runs/small"))]
    assert keys[0] == keys[1]


def test_every_kind_of_evaluation_can_be_given_a_name(folder: Path) -> None:
    evaluate("--evaluation", "val", subcommand="validate")
    evaluate("--evaluation", "away", "--data.test_split", "all", "--attack.seen", "report")
    splits = {
        path.name: json.loads((path / "manifest.json").read_text())["data"]["split"]
        for path in evaluations_of(Path("runs/small"))
    }
    assert splits == {"away": "all", "val": "val"} and not Path("runs/small/evaluate").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [("a/b", "has a slash"), (".hidden", "begins with a dot"), ("", "is empty"), ("..", "begins with a dot")],
)
def test_a_name_that_is_none_of_a_folder_is_refused(
    folder: Path, refused: Callable[..., str], name: str, words: str
) -> None:
    said = refused("--evaluation", name)
    assert "is the name of a folder in runs/small/evaluations" in said and said.endswith(words)


def test_a_training_has_no_evaluation_to_name(folder: Path, refusal: Callable[..., str]) -> None:
    assert "fit is a training" in refusal(command, "train", "fit", "-c", "small.yaml", "--evaluation", "x")


def test_attacks_that_watched_the_training_are_no_evaluation(folder: Path, refusal: Callable[..., str]) -> None:
    for words in ((), ("--evaluation", "x")):
        said = refusal(partial(evaluate, suite=""), *words)
        assert "runs/small/train.yaml, line " in said and "no attack is given but fgsm" in said
        assert "configs/attacks/*.yaml" in said and "--attack.attacks" in said
    assert not Path("runs/small/evaluate").exists() and not Path("runs/small/evaluations").exists()
    Path("suite.yaml").write_text("attack: {attacks: {pgd: {class_path: PGD, init_args: {epsilon: 2/255}}}}\n")
    files = [ConfigFile(path) for path in ("suite.yaml", "runs/small/train.yaml")]
    with pytest.raises(
        ValueError, match=r"train.yaml comes after suite.yaml and .* give -c runs/small/train.yaml first"
    ):
        check_attacks_given({"fgsm": {}}, 1, files, [])
    given = '{"fgsm": {"class_path": "FGSM", "init_args": {"epsilon": "2/255"}}}'
    evaluate("--attack.attacks", given, "--evaluation", "words", "--data.limit", 2, suite="")
    evaluate("--evaluation", "plus", "--data.limit", 2, suite="changed")
    assert len(evaluations_of(Path("runs/small"))) == 2


def test_attacks_of_a_trainings_configuration_are_no_evaluation_either(
    folder: Path, refusal: Callable[..., str]
) -> None:
    saved = Path("runs/small/train.yaml")
    saved.write_text(saved.read_text().replace("fit_batches: 1", "fit_batches: 0"))
    said = refusal(partial(evaluate, suite=""))
    assert (
        "runs/small/train.yaml, line " in said and "no attack is given but fgsm, which the training was given" in said
    )
    assert not Path("runs/small/evaluate").exists()


def test_a_dry_run_goes_on_with_nothing(folder: Path) -> None:
    evaluate()
    shutil.copytree("runs/small/evaluate", "runs/small/dry_run")  # as if one had been killed
    evaluate("--trainer.fast_dev_run", "true", "--data.image_size", 32, "--attack.input_defence", "BitDepth")
    assert not Path("runs/small/dry_run").exists() and rows()[0][0] == "clean"


def test_numbers_of_clean_images_are_of_all_records_after_a_resume_with_another_limit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate("--trainer.limit_test_batches", 3)
    assert "victim on the 12 clean images of the records" in " ".join(capsys.readouterr().out.split())
    victim = json.loads(Path("runs/small/evaluate/manifest.json").read_text())["victim"]
    assert victim["quality_images"] == 12
    evaluate("--trainer.limit_test_batches", 1, suite="bim")  # which sees four of the twelve
    summary = read_summary("runs/small/evaluate")
    said = " ".join(capsys.readouterr().out.split())
    assert f"12 clean images of the records: accuracy {summary['rows'][0]['clean_accuracy']:.4f}" in said
    assert "quality" not in summary["manifest"]["victim"] and "quality_images" not in summary["manifest"]["victim"]
    assert rows()[1:] == [("noise", 12), ("fgsm", 12), ("bim", 4)]
