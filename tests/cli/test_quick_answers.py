"""What the programs answer without torch: the same as the real parsers, or nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli import quick_answers
from cli.quick_answers import (
    answer,
    key,
    missing_file,
    options_in,
    read,
    signatures,
    unknown_command,
    unknown_option,
)

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = (
    "name",
    "defence",
    "defence.help",
    "attack",
    "attack.attacks",
    "attack.epsilons",
    "model",
    "data",
    "trainer",
    "trainer.max_epochs",
)
CLASSES = {"Classifier": ["num_classes", "backbone"], "Trades": ["weight"]}


def test_the_stored_answers_are_those_of_the_parsers() -> None:
    """Asked in a process of its own, as tests define further classes; other versions of Python break other lines."""
    code = "import json; from cli.store_answers import made; print(json.dumps(made()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    made, stored = json.loads(done.stdout), read()
    same = made["python"] == stored["python"]
    texts, expected = (
        {place: text if same else options_in(text) for place, text in answers.pop("help").items()}
        for answers in (made, stored)
    )
    assert texts == expected, "run make answers"
    assert made | {"python": ""} == stored | {"python": ""}, "run make answers"


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        ("--attack.epsilon 3", "there is no option 'attack.epsilon'; did you mean attack.epsilons?"),
        ("--trainer.max_epoch=3", "there is no option 'trainer.max_epoch'; did you mean trainer.max_epochs?"),
        ("--nmae x", "there is no option 'nmae'; did you mean name?"),
        ("--model Classifier --model.bckbone x", "model: Classifier has no option 'bckbone'; did you mean backbone?"),
        ("--model Classifier --model.init_args.bckbone x", "model: Classifier has no option 'bckbone'; did you mean"),
        ("--defence Trades --defence.weigth 3", "defence: Trades has no option 'weigth'; did you mean weight?"),
        ("--model a.b.Classifier --model.zzz x", "model: Classifier has no option 'zzz'"),
    ],
)
def test_an_option_that_does_not_exist_is_named(words: str, mistake: str) -> None:
    assert unknown_option(words.split(), OPTIONS, CLASSES).startswith(mistake)


@pytest.mark.parametrize(
    "words",
    [
        "--name=x --attack.epsilons+ 3 --attack.attacks.pgd.init_args.steps 3 --trainer.max_epochs 3",
        "--attack overlay.yaml --model.bckbone x",  # the class may be in a file that the parser reads
        "--model Classifier --model.backbone x --model.init_args.num_classes 3 --model.help Classifier",
        "--model Mine --model.depth 3 --data.root x",  # of a class of the user's
        "--defence Trades --defence.weight 3 --defence.init_args.weight 3",
        "--attack.help --print_config --print_config=skip_null",
        "--name --odd",  # what is a value and what an option the parser knows
    ],
)
def test_what_may_exist_is_left_to_the_parser(words: str) -> None:
    known = "--odd" in words
    assert bool(unknown_option(words.split(), OPTIONS, CLASSES)) == known


def test_a_command_that_does_not_exist_is_named() -> None:
    answers = {"train.py": "usage: train.py [-c CONFIG] {fit,test} ...", "train.py fit": "", "prepare.py mnist": ""}
    assert unknown_command("train.py", "fti", answers) == "there is no command 'fti'; did you mean fit?"
    assert unknown_command("train.py", "xyz", answers) == "there is no command 'xyz'; choose from fit, test"
    assert unknown_command("prepare.py", "minst", answers) == "there is no dataset 'minst'; did you mean mnist?"
    assert not unknown_command("train.py", "test", answers) and not unknown_command("other.py", "fit", answers)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.py", "expected a command among fit, test, got none"),
        ("train.py --hlep", "there is no option 'hlep'; did you mean help?"),
        ("train.py -c configs/demo.yaml fit --nmae x", "there is no option 'nmae'; did you mean name?"),
        ("prepare.py", "the following arguments are required: NAME"),
        ("prepare.py mnist --rot x", "there is no option 'rot'; did you mean root?"),
        ("prepare.py describe --confg x", "there is no option 'confg'; did you mean config?"),
        ("prepare.py describe --data Phantom --data.sied 3", "data: Phantom has no option 'sied'; did you mean side?"),
        ("prepare.py mnist --ro x", ""),
        ("prepare.py describe -c configs/demo.yaml --data.side 3", ""),
        ("train.py -c configs/demo.yaml fit --name x", ""),
    ],
)
def test_every_program_names_a_mistake_at_once(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"train.py fit": "  --name NAME\n", "train.py test": "", "prepare.py mnist": "  --root FOLDER\n"}
    texts = {"train.py": "usage: train.py [-c CONFIG] {fit,test} ...\n  -h, --help\n  -c C, --config C\n", **options}
    texts |= {"prepare.py": "usage: prepare.py NAME ...", "prepare.py describe": "  -c, --config C\n  --data D\n"}
    stored = {"key": key(), "help": texts, "classes": {"Phantom": ["side"]}}
    (tmp_path / "answers.json").write_text(json.dumps(stored))
    monkeypatch.setattr(quick_answers, "STORED", tmp_path / "answers.json")
    program, *words = line.split()
    if not said:
        answer(program, words)
        return
    with pytest.raises(SystemExit) as ended:
        answer(program, words)
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {said}\n"


def test_the_class_is_that_of_the_last_file_before_the_option(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("model: {class_path: lightning_modules.Classifier}\n")
    (tmp_path / "b.yaml").write_text("model: {class_path: Mine}\ndata: other.yaml\n")
    (tmp_path / "c.yaml").write_text("[")
    first, second, broken = (f"-c {tmp_path}/{name}.yaml" for name in "abc")
    wrong = "--model.zzz 3"
    assert unknown_option(f"{first} {wrong}".split(), OPTIONS, CLASSES) == "model: Classifier has no option 'zzz'"
    for words in (f"{first} {second} {wrong}", f"{second} {wrong}", f"{first} {broken} {wrong}", f"{wrong} {first}"):
        assert not unknown_option(words.split(), OPTIONS, CLASSES)


def test_options_are_read_off_the_help() -> None:
    lines = ["usage: x [--no NO]", "", "Of --this:", "  -h, --help  Help.", "  -c FILE, --config FILE"]
    text = "\n".join([*lines, "  --a.b B, --a.b+ B", "     --not"])
    assert options_in(text) == ["help", "config", "a.b"]


def test_only_what_parsers_are_made_of_changes_the_key() -> None:
    first = "class A(B):\n    '''Does.'''\n    def __init__(self, x: int = 1) -> None:\n        self.x = x\n"
    other = first.replace("self.x = x", "self.x = x + 1")
    parts = [list(signatures(ast.parse(text))) for text in (first, other, first.replace("= 1", "= 2"))]
    assert parts[0] == parts[1] != parts[2]


def test_stale_or_missing_answers_are_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quick_answers, "STORED", tmp_path / "answers.json")
    answer("train.py", ["fit", "--help"])
    stored = {"key": "old", "help": {"train.py fit": "  --name NAME\n"}, "classes": {}}
    (tmp_path / "answers.json").write_text(json.dumps(stored))
    answer("train.py", ["fit", "--help"])
    (tmp_path / "answers.json").write_text(json.dumps(stored | {"key": key()}))
    answer("train.py", ["fit", "--name", "x"])
    assert capsys.readouterr() == ("", "")
    for words, status in ((["fit", "--help"], 0), (["fit", "--nam", "x"], 2)):
        with pytest.raises(SystemExit) as ended:
            answer("train.py", words)
        assert ended.value.code == status
    out, err = capsys.readouterr()
    assert out == "  --name NAME\n" and err == "error: there is no option 'nam'; did you mean name?\n"


def test_the_programs_answer_without_torch(tmp_path: Path) -> None:
    words = [["train.py", "fit", "--help"], ["evaluate.py", "test", "--attack.epsilon", "3"], ["prepare.py", "--help"]]
    for program, *rest in words:
        code = f"import sys; sys.argv = {[program, *rest]!r}; from cli.start import main; main({program[:-3]!r})"
        watched = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {code}"
        done = subprocess.run([sys.executable, "-c", watched], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout.endswith("False\n") and done.returncode == (2 if "--attack.epsilon" in rest else 0)


def test_a_configuration_file_that_is_not_there_is_named_with_its_likeness(tmp_path: Path) -> None:
    for name in ("linf.yaml", "masks.yaml"):
        (tmp_path / name).write_text("attack: {}\n")
    near = f"; did you mean {tmp_path}/linf.yaml?"
    assert (
        missing_file(["-c", f"{tmp_path}/linff.yaml"]) == f"there is no configuration file {tmp_path}/linff.yaml{near}"
    )
    assert missing_file([f"--config={tmp_path}/linf"]).endswith(near)
    assert missing_file(["-c", f"{tmp_path}/masks.yaml", "--name", "x"]) == missing_file(["--name", "-c"]) == ""
    assert missing_file(["-c", f"{tmp_path}/gone/linf.yaml"]).endswith("gone/linf.yaml")


def test_a_program_without_a_command_names_its_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {"key": key(), "help": {"train.py": "usage: train.py [-h] {fit,validate,test} ..."}, "classes": {}}
    monkeypatch.setattr(quick_answers, "read", lambda: stored)
    with pytest.raises(SystemExit) as ended:
        answer("train.py", [])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: expected a command among fit, validate, test, got none\n"
