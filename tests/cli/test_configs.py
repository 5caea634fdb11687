"""Configurations: every file parses, files and options compose, and a run's own file starts the next command."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import cli.main
from medrobust.results.records import read_records

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
DEMO, LINF = CONFIGS / "demo.yaml", CONFIGS / "attacks" / "linf.yaml"
FILES = sorted(path for path in CONFIGS.rglob("*") if path.suffix in (".yaml", ".yml"))


class Shown:
    """The configuration that a command line arrives at."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch
        monkeypatch.chdir(folder)

    def __call__(self, program: str, *arguments: Any) -> dict[str, Any]:
        self.monkeypatch.setattr("sys.argv", [f"{program}.py"])
        subcommand = "fit" if program == "train" else "test"
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main(program, [subcommand, *map(str, arguments), "--print_config"])
        printed = self.capsys.readouterr()
        assert stopped.value.code in (0, None), printed.err
        self.text = printed.out
        return yaml.safe_load(printed.out)

    def attacks(self, *arguments: Any) -> dict[str, Any]:
        """The attacks of an evaluation."""
        return self("evaluate", *arguments)["attack"]["attacks"]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shown:
    """What ``--print_config`` shows."""
    return Shown(capsys, monkeypatch, tmp_path)


def overlay(folder: Path, text: str, name: str = "overlay.yaml") -> Path:
    """A configuration of its own."""
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_config_parses_on_top_of_the_demo(path: Path, shown: Shown) -> None:
    programs = ("train", "evaluate") if path.parent.name == "victims" or path == DEMO else ("evaluate",)
    for program in programs:
        config = shown(program, "-c", DEMO, "-c", path)
        given = yaml.safe_load(path.read_text())
        for name, attack in (given.get("attack", {}).get("attacks") or {}).items():
            assert config["attack"]["attacks"][name]["class_path"].endswith(f".{attack['class_path']}")
        for name, value in given.get("trainer", {}).items():
            assert config["trainer"][name] == value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_config_says_first_what_it_is_for(path: Path) -> None:
    assert re.match(r"# \S.{20,}", path.read_text())


def test_fractions_are_printed_as_they_were_written(shown: Shown, tmp_path: Path) -> None:
    text = "attack:\n  attacks:\n    pgd: {class_path: PGD, init_args: {epsilon: 2/255, step_size: 0.5/255}}\n"
    config = shown("evaluate", "-c", DEMO, "-c", overlay(tmp_path, text + "  epsilons: [0.5/255, 0.03, 8/255]\n"))

    assert [str(radius) for radius in config["attack"]["epsilons"]] == ["0.5/255", "0.03", "8/255"]
    pgd = config["attack"]["attacks"]["pgd"]["init_args"]
    assert pgd["epsilon"] == "2/255" and pgd["step_size"] == "0.5/255"
    assert shown.attacks("-c", overlay(tmp_path, shown.text))["pgd"]["init_args"] == pgd


def test_numbers_are_accepted_where_fractions_are(shown: Shown) -> None:
    pgd = shown.attacks("-c", DEMO, "-c", LINF, "--attack.attacks.pgd.epsilon", "0.01")["pgd"]
    assert float(pgd["init_args"]["epsilon"]) == 0.01


def test_an_overlay_keeps_what_it_does_not_name(shown: Shown) -> None:
    demo, both = shown("evaluate", "-c", DEMO), shown("evaluate", "-c", DEMO, "-c", LINF)

    differing = {name for name in demo if demo[name] != both[name]}
    assert differing == {"attack"}
    assert {name for name in demo["attack"] if demo["attack"][name] != both["attack"][name]} == {"attacks", "epsilons"}


def test_the_attacks_of_a_later_file_replace_those_of_an_earlier_one(shown: Shown, tmp_path: Path) -> None:
    other = overlay(tmp_path, "attack:\n  attacks:\n    mim: {class_path: MIM}\n")
    assert list(shown.attacks("-c", DEMO, "-c", other)) == ["mim"]
    assert list(shown.attacks("-c", DEMO, "-c", LINF)) == ["fgsm", "bim", "pgd", "cw"]


@pytest.mark.parametrize("method", ["FGSM", "PGD"])
def test_an_attack_of_a_later_file_takes_no_setting_from_one_of_its_name_in_an_earlier_file(
    method: str, shown: Shown, tmp_path: Path
) -> None:
    """The suite decides alone what its attacks are, whatever the victim was fine-tuned with."""
    text = f"attack:\n  attacks:\n    fgsm: {{class_path: {method}}}\n"
    rest = "model: {class_path: Classifier, init_args: {backbone: resnet10t}}\n"
    rest += "data: {class_path: PhantomChestXRay, init_args: {root: nowhere}}\n"
    alone = shown.attacks("-c", overlay(tmp_path, rest + text, "alone.yaml"))

    assert shown.attacks("-c", DEMO, "-c", overlay(tmp_path, text))["fgsm"] == alone["fgsm"]


@pytest.mark.parametrize("option", ["--attack.attacks.pgd.steps", "--attack.attacks.pgd.init_args.steps"])
def test_an_option_changes_one_setting_of_one_attack(option: str, shown: Shown) -> None:
    before, after = shown.attacks("-c", DEMO, "-c", LINF), shown.attacks("-c", DEMO, "-c", LINF, option, "7")

    assert (before["pgd"]["init_args"].pop("steps"), after["pgd"]["init_args"].pop("steps")) == (20, 7)
    assert before == after


@pytest.mark.parametrize("option", ["--model.backbone", "--model.init_args.backbone"])
def test_an_option_changes_the_backbone_and_keeps_the_rest(option: str, shown: Shown) -> None:
    before, after = shown("train", "-c", DEMO), shown("train", "-c", DEMO, option, "mobilenetv2_100")

    assert after["model"]["init_args"].pop("backbone") == "mobilenetv2_100"
    assert before["model"]["init_args"].pop("backbone") == "resnet10t"
    assert before == after


def test_options_are_stronger_than_files_and_later_files_than_earlier_ones(shown: Shown, tmp_path: Path) -> None:
    later = overlay(tmp_path, "trainer: {max_epochs: 3}\nname: later\n")
    config = shown("train", "-c", DEMO, "-c", later, "--trainer.max_epochs", "9")
    assert config["name"] == "later" and config["trainer"]["max_epochs"] == 9


def test_the_distributed_sampler_that_would_repeat_images_is_off(shown: Shown) -> None:
    assert shown("evaluate", "-c", DEMO)["trainer"]["use_distributed_sampler"] is False


def test_a_printed_config_is_a_config(shown: Shown, tmp_path: Path) -> None:
    first = shown("evaluate", "-c", DEMO, "-c", LINF)
    assert shown("evaluate", "-c", overlay(tmp_path, shown.text)) == first


def run(program: str, *arguments: Any) -> None:
    """Run a command line in this process, on one CPU and without a logger."""
    quiet = ("--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    one = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
    cli.main(program, [*map(str, arguments), *quiet, *one])


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo's victim was fine-tuned, on fewer and smaller images."""
    folder = tmp_path_factory.mktemp("fitted")
    small = ("--data.root", "phantom", "--data.patients", 40, "--data.side", 32, "--data.image_size", 32)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        run("train", "fit", "-c", DEMO, *small, "--trainer.max_epochs", 1, "--data.batch_size", 8)
    return folder


def test_a_run_keeps_its_whole_config_and_its_checkpoints(fitted: Path, shown: Shown) -> None:
    folder = fitted / "runs" / "demo"
    assert (folder / "checkpoints" / "best.ckpt").is_file() and (folder / "checkpoints" / "last.ckpt").is_file()
    kept = shown("evaluate", "-c", folder / "train.yaml")

    assert kept["data"]["init_args"]["patients"] == 40 and kept["name"] == "demo"
    assert kept["attack"]["attacks"]["fgsm"]["init_args"]["epsilon"] == "1/255"
    assert str(fitted) not in (folder / "train.yaml").read_text()


def test_an_evaluation_starts_from_the_runs_config_and_ends_with_the_report(
    fitted: Path, shown: Shown, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "runs" / "demo"
    two = ("--attack.epsilons", "[1/255, 8/255]", "--attack.attacks.bim.steps", 3, "--panels.count", 2)
    shown.monkeypatch.setattr("sys.argv", ["evaluate.py"])
    run("evaluate", "test", "-c", folder / "train.yaml", "-c", LINF, "--ckpt_path", "best", *two)

    printed = capsys.readouterr().out
    for name in ("report.html", "summary.json", "records.parquet"):
        assert (folder / "evaluate" / name).is_file() and f"runs/demo/evaluate/{name}" in printed
    assert all(name in printed for name in ("noise", "fgsm", "bim", "pgd", "cw"))
    images = json.loads((folder / "evaluate" / "manifest.json").read_text())["data"]["images"]
    records = read_records(folder / "evaluate")
    assert len(records) == 5 * 2 * images and records.select("attack", "epsilon", "id").n_unique() == len(records)
    assert len(list((folder / "evaluate" / "panels").glob("*.json"))) == 2 * 2 * 5
    saved = yaml.safe_load((folder / "evaluate" / "evaluate.yaml").read_text())
    assert saved["attack"]["epsilons"] == ["1/255", "8/255"] and saved["name"] == "demo"

    train = (folder / "train.yaml").read_bytes()
    journal = {file.name: file.read_bytes() for file in (folder / "evaluate" / "journal").iterdir()}
    run("evaluate", "test", "-c", folder / "evaluate" / "evaluate.yaml", "--ckpt_path", "best")
    assert journal == {file.name: file.read_bytes() for file in (folder / "evaluate" / "journal").iterdir()}
    assert (folder / "train.yaml").read_bytes() == train


def test_a_fit_that_went_on_from_a_checkpoint_chooses_no_weights_for_the_evaluation(
    fitted: Path, shown: Shown, tmp_path: Path
) -> None:
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "runs" / "demo" / "train.yaml"
    shown.monkeypatch.setattr("sys.argv", ["train.py"])
    run("train", "fit", "-c", file, "--ckpt_path", "last", "--trainer.max_epochs", 2)

    kept = shown("evaluate", "-c", file)
    assert kept["trainer"]["max_epochs"] == 2
    assert kept["ckpt_path"] is None  # else an evaluation that names none takes this one without a word
