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
            cli.main.main(program, [subcommand, *map(str, arguments), "--print_config"])
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
    """Write a configuration file."""
    path = folder / name
    path.write_text(text)
    return path


def laid_over(path: Path) -> list[Path]:
    """The files that a configuration is given after: the demo, and for a small form of a study the study itself."""
    whole = path.with_stem(path.stem.removesuffix("_small"))
    return [DEMO] if whole == path else [DEMO, whole]


def options(*paths: Path) -> list[Any]:
    """Options that give these files."""
    return [part for path in paths for part in ("-c", path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_config_parses_on_top_of_the_demo(path: Path, shown: Shown) -> None:
    programs = (
        ("train", "evaluate")
        if path.parent.name in ("victims", "recipes", "defences") or path == DEMO
        else ("evaluate",)
    )
    for program in programs:
        config = shown(program, *options(*laid_over(path), path))
        given = yaml.safe_load(path.read_text())
        for name, attack in (given.get("attack", {}).get("attacks") or {}).items():
            assert config["attack"]["attacks"][name]["class_path"].endswith(f".{attack['class_path']}")
        for name, change in given.get("attack", {}).get("attacks+", {}).items():
            assert change["init_args"].items() <= config["attack"]["attacks"][name]["init_args"].items()
        for name, value in given.get("trainer", {}).items():
            if name == "callbacks+":
                added = [one["class_path"].rpartition(".")[2] for one in config["trainer"]["callbacks"]]
                assert added == [one["class_path"] for one in value]
            else:
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


def hidden(
    method: str, settings: dict[str, Any], objective: str, term: dict[str, Any], weight: float = 1.0
) -> dict[str, Any]:
    """An attack towards a class, whose objective adds a second term."""
    kappa = {"init_args": {"kappa": 100.0}} if objective == "Margin" else {}
    terms = [{"class_path": objective, **kappa}, term]
    added = {"class_path": "WeightedSum", "init_args": {"terms": terms, "weights": [1.0, weight]}}
    return {"class_path": method, "init_args": {**settings, "objective": added}}


TENTH = {"epsilon": 0.1, "steps": 10}
LITERAL = {"step_size_warp": 0.06, "objective": {"class_path": "CrossEntropy", "init_args": {"saturated": "keep"}}}
FORTY = {"targeted": True, "epsilon": "1/256", "steps": 40, "step_size": "0.05/256"}
FAR = {"targeted": True, "epsilon": "4/256", "steps": 40, "step_size": "0.2/256"}
EVEN = {"targeted": True, "epsilon": "4/256", "steps": 40, "step_size": None}
CONSTRAINT = {"class_path": "FeatureConstraint", "init_args": {"components": 1}}
SMALL_STUDIES = {
    "sbf20_table1": {
        "bim": {"class_path": "BIM", "init_args": TENTH},
        "cw-l2": {"class_path": "CWL2", "init_args": {"search_steps": 3, "steps": 30, "initial_constant": 0.1}},
        "saliency-map": {"class_path": "JSMA", "init_args": {"pixels": 1, "space": "probabilities", "steps": 200}},
        "fgsm": {"class_path": "FGSM", "init_args": {"epsilon": 0.1}},
        "mim": {"class_path": "MIM", "init_args": TENTH},
        "sbf-literal": {"class_path": "AdvSBF", "init_args": LITERAL},
        "sbf": {"class_path": "AdvSBF"},
    },
    "hfc21_table2": {
        "bim": {"class_path": "BIM", "init_args": FORTY},
        "bim-hfc": hidden("BIM", FORTY, "CrossEntropy", CONSTRAINT, 2.0),
        "bim-strong": hidden("BIM", FORTY, "TypicalMargin", CONSTRAINT, 4.0),
        "pgd": {"class_path": "PGD", "init_args": FORTY},
        "pgd-hfc": hidden("PGD", FORTY, "CrossEntropy", CONSTRAINT, 2.0),
        "pgd-strong": hidden("PGD", FORTY, "TypicalMargin", CONSTRAINT, 4.0),
        "cw": {"class_path": "CWLinf", "init_args": {**FORTY, "kappa": 100.0}},
        "cw-hfc": hidden("CWLinf", FORTY, "Margin", CONSTRAINT, 2.0),
    },
    "hfc21_table3": {
        "bim": {"class_path": "BIM", "init_args": FORTY},
        "random-guide": hidden("BIM", FORTY, "CrossEntropy", {"class_path": "RandomGuide"}),
        "closest-guide": hidden("BIM", FORTY, "CrossEntropy", {"class_path": "ClosestGuide"}),
        "kde": hidden("BIM", FORTY, "CrossEntropy", {"class_path": "DensityGuide"}),
        "lid-guide": hidden("BIM", FORTY, "CrossEntropy", {"class_path": "DimensionGuide"}),
        "hfc": hidden("BIM", FORTY, "CrossEntropy", CONSTRAINT, 2.0),
        "hfc-strong": hidden("BIM", FORTY, "TypicalMargin", CONSTRAINT, 4.0),
    },
    "hfc21_table4": {
        "bim": {"class_path": "BIM", "init_args": FAR},
        "bim-hfc": hidden("BIM", FAR, "CrossEntropy", CONSTRAINT, 2.0),
        "bim-strong": hidden("BIM", FAR, "TypicalMargin", CONSTRAINT, 4.0),
    },
    "hfc21_figure3a": {
        "bim": {"class_path": "BIM", "init_args": FORTY},
        "bim-hfc": hidden("BIM", FORTY, "CrossEntropy", CONSTRAINT, 2.0),
        "bim-strong": hidden("BIM", FORTY, "TypicalMargin", CONSTRAINT, 4.0),
    },
    "hfc21_figure3b": {
        "bim": {"class_path": "BIM", "init_args": EVEN},
        "bim-hfc": hidden("BIM", EVEN, "CrossEntropy", CONSTRAINT, 2.0),
    },
    "hfc21_defender": {
        "bim": {"class_path": "BIM", "init_args": FORTY},
        "hfc": hidden("BIM", FORTY, "CrossEntropy", CONSTRAINT, 2.0),
        "hfc-strong": hidden("BIM", FORTY, "TypicalMargin", CONSTRAINT, 4.0),
    },
}


@pytest.mark.parametrize("study", SMALL_STUDIES)
def test_a_small_study_is_what_it_was_when_its_file_held_everything(study: str, shown: Shown, tmp_path: Path) -> None:
    """Its published results were made with these attacks."""
    big, small = CONFIGS / "studies" / f"{study}.yaml", CONFIGS / "studies" / f"{study}_small.yaml"
    whole = shown("evaluate", *options(DEMO, big))
    written_out = yaml.safe_dump({"attack": {"attacks": SMALL_STUDIES[study]}}, sort_keys=False)
    expected = shown.attacks(*options(DEMO, overlay(tmp_path, written_out)))
    config = shown("evaluate", *options(DEMO, big, small))

    assert config["attack"]["attacks"] == expected and list(expected) == list(config["attack"]["attacks"])
    differing = {name for name in whole if whole[name] != config[name]}
    assert differing == {"attack", "transfer"} if study == "sbf20_table1" else differing == {"attack"}
    assert {name for name in whole["attack"] if whole["attack"][name] != config["attack"][name]} == {"attacks"}


HIDING = sorted(path for path in FILES if "FeatureConstraint" in path.read_text())


@pytest.mark.parametrize("path", HIDING, ids=lambda path: path.stem)
def test_what_hides_aims_at_the_class_that_it_resembles(path: Path, shown: Shown) -> None:
    """But for the two that show what happens otherwise."""
    config = shown("evaluate", *options(*laid_over(path), path))["attack"]
    assert config["goals"] == "likeliest"
    untargeted = {name for name, attack in config["attacks"].items() if not attack["init_args"]["targeted"]}
    assert untargeted == ({"hfc-untargeted", "hfc-untargeted-weight-1"} if path.stem == "hfc21_ablation" else set())


MODES = [("hfc_paper", "CrossEntropy", 2.0), ("hfc_strong", "TypicalMargin", 4.0)]


@pytest.mark.parametrize(("name", "first", "weight"), MODES)
def test_the_two_modes_of_hfc(name: str, first: str, weight: float, shown: Shown) -> None:
    """The paper's steps are 2 epsilon / step_size, and its weight is twice that of eq. 7."""
    settings = list(shown.attacks("-c", DEMO, "-c", CONFIGS / "attacks" / f"{name}.yaml").values())[1]["init_args"]
    summed = settings["objective"]["init_args"]
    assert [term["class_path"].rsplit(".", 1)[1] for term in summed["terms"]] == [first, "FeatureConstraint"]
    assert (summed["weights"], settings["targeted"], settings["steps"]) == ([1.0, weight], True, 100)
    assert (settings["epsilon"], settings["step_size"]) == ("1/256", "0.02/256")


def test_the_small_studies_are_those_that_are_pinned() -> None:
    small = {path.stem.removesuffix("_small"): path.read_text() for path in FILES if path.stem.endswith("_small")}
    assert {name for name, text in small.items() if "attacks+:" in text} == set(SMALL_STUDIES)
    assert set(small) - set(SMALL_STUDIES) == {"ma20_figure4"}  # which has fewer radii


def test_the_judges_of_the_small_bias_field_study_are_its_own(shown: Shown) -> None:
    small = CONFIGS / "studies" / "sbf20_table1_small.yaml"
    judges = {"resnet50": "runs/xray_resnet50", "densenet121": "runs/xray_densenet121", "mobilenet": "runs/chest_xray"}
    assert shown("evaluate", *options(*laid_over(small), small))["transfer"]["judges"] == judges


def test_a_change_of_attacks_keeps_whatever_it_does_not_name(shown: Shown, tmp_path: Path) -> None:
    change = "attack:\n  attacks+:\n    pgd: {init_args: {steps: 7}}\n    cw: {class_path: CWLinf}\n"
    before = shown.attacks(*options(DEMO, LINF))
    after = shown.attacks(*options(DEMO, LINF, overlay(tmp_path, change)))

    assert list(after) == ["fgsm", "bim", "pgd", "cw"]
    assert (before["pgd"]["init_args"].pop("steps"), after["pgd"]["init_args"].pop("steps")) == (20, 7)
    assert before == after


def test_changes_add_up_and_an_option_is_stronger(shown: Shown, tmp_path: Path) -> None:
    one = overlay(tmp_path, "attack: {attacks+: {pgd: {init_args: {steps: 7, epsilon: 3/255}}}}", "one.yaml")
    other = overlay(tmp_path, "attack: {attacks+: {pgd: {init_args: {steps: 8}}}}", "other.yaml")
    pgd = shown.attacks(*options(DEMO, LINF, one, other), "--attack.attacks.pgd.step_size", "1/255")["pgd"]["init_args"]
    assert (pgd["steps"], pgd["epsilon"], pgd["step_size"], pgd["stop_when_fooled"]) == (8, "3/255", "1/255", True)


def test_a_change_reaches_into_an_objective(shown: Shown, tmp_path: Path) -> None:
    text = "attack: {attacks: {sbf: {class_path: AdvSBF, init_args: {steps: 3, objective: {class_path: Margin}}}}}"
    change = "attack: {attacks+: {sbf: {init_args: {objective: {init_args: {kappa: 2.5}}}}}}"
    files = overlay(tmp_path, text, "first.yaml"), overlay(tmp_path, change, "second.yaml")
    settings = shown.attacks(*options(DEMO, *files))["sbf"]["init_args"]
    assert settings["objective"]["class_path"].endswith(".Margin") and settings["steps"] == 3
    assert settings["objective"]["init_args"]["kappa"] == 2.5


def test_studies_of_a_later_file_replace_those_of_earlier_ones_or_join_and_change_them(
    shown: Shown, tmp_path: Path
) -> None:
    def studies(*texts: str) -> dict[str, Any]:
        files = [overlay(tmp_path, f"study: {{{text}}}", f"{place}.yaml") for place, text in enumerate(texts)]
        found: dict[str, Any] = shown("evaluate", *options(DEMO, *files))["study"]["studies"]
        return found

    first = "studies: {saliency: {class_path: Saliency, init_args: {images: 3}}, radii: {class_path: RadiusSweep}}"
    replaced = studies(first, "studies: {saliency: {class_path: Saliency}}")
    assert list(replaced) == ["saliency"] and replaced["saliency"]["init_args"]["images"] == 64  # its default, not 3
    change = "studies+: {saliency: {init_args: {attacks: [fgsm]}}, maps: {class_path: LayerMaps}}"
    joined = studies(first, change)
    assert list(joined) == ["saliency", "radii", "maps"] and joined["radii"]["class_path"].endswith(".RadiusSweep")
    assert joined["saliency"]["init_args"]["images"] == 3 and joined["saliency"]["init_args"]["attacks"] == ["fgsm"]


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


def test_a_value_that_is_the_name_of_another_subcommand_is_a_value(shown: Shown) -> None:
    """The options of other subcommands are built only where words leave open which one is meant."""
    usual, named = shown("train", "-c", DEMO), shown("train", "-c", DEMO, "--name", "test")
    assert named == usual | {"name": "test"}


def test_the_distributed_sampler_that_would_repeat_images_is_off(shown: Shown) -> None:
    assert shown("evaluate", "-c", DEMO)["trainer"]["use_distributed_sampler"] is False


def test_a_run_of_version_0_1_is_read(shown: Shown, tmp_path: Path) -> None:
    old = """
    attack:
      attacks:
        mixed:
          class_path: attacks.PGD
          init_args:
            epsilon: 1/255
            objective:
              class_path: attacks.WeightedSum
              init_args:
                terms: [{class_path: attacks.objectives.CrossEntropy}, {class_path: attacks.Margin}]
                weights: [1.0, 0.5]
    detection:
      detectors:
        maha: {class_path: detectors.mahalanobis.Mahalanobis, init_args: {shrinkage: 0.1}}
    """
    new = old.replace("attacks.objectives.", "").replace("detectors.mahalanobis.", "").replace(": attacks.", ": ")
    now = shown("evaluate", *options(DEMO, overlay(tmp_path, new)))
    assert shown("evaluate", *options(DEMO, overlay(tmp_path, old, "old.yaml"))) == now
    assert now["detection"]["detectors"]["maha"]["class_path"] == "medrobust.detectors.Mahalanobis"


def test_a_printed_config_is_a_config(shown: Shown, tmp_path: Path) -> None:
    first = shown("evaluate", "-c", DEMO, "-c", LINF)
    assert shown("evaluate", "-c", overlay(tmp_path, shown.text)) == first


def run(program: str, *arguments: Any) -> None:
    """Run a command line in this process, on one CPU and without a logger."""
    quiet = ("--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    one = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
    cli.main.main(program, [*map(str, arguments), *quiet, *one])


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
    three_steps = overlay(tmp_path, "attack: {attacks+: {bim: {init_args: {steps: 3}}}}")
    two = ("-c", three_steps, "--attack.epsilons", "[1/255, 8/255]", "--panels.count", 2)
    shown.monkeypatch.setattr("sys.argv", ["evaluate.py"])
    run("evaluate", "test", "-c", folder / "train.yaml", "-c", LINF, "--ckpt_path", "best", *two)

    printed = capsys.readouterr().out
    for name in ("report.html", "summary.json", "records.parquet"):
        assert (folder / "evaluate" / name).is_file() and f"runs/demo/evaluate/{name}" in printed
    assert all(name in printed for name in ("noise", "fgsm", "bim", "pgd", "cw"))
    images = json.loads((folder / "evaluate" / "manifest.json").read_text())["data"]["images"]
    records = read_records(folder / "evaluate")
    assert len(records) == 5 * 2 * images and records.select("attack", "epsilon", "id").n_unique() == len(records)
    assert len(list((folder / "evaluate" / "panels").glob("*.json"))) == 2 * 2 * 2 * 5  # twice the images shown
    saved = yaml.safe_load((folder / "evaluate" / "evaluate.yaml").read_text())
    assert saved["attack"]["epsilons"] == ["1/255", "8/255"] and saved["name"] == "demo"
    assert saved["attack"]["attacks"]["bim"]["init_args"]["steps"] == 3 and "attacks+" not in saved["attack"]

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
