"""Files that were broken between two commands: made again where they can be, else told in one sentence."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cli.main
import compare
from medrobust.results.records import read_records
from medrobust.results.same_records import differences
from tests.programs import CONFIG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ATTACKS = "attack: {attacks: {fgsm: {class_path: FGSM}}, epsilons: [1/255]}\n"
EVALUATION, RUN = "runs/small/evaluate", "runs/small"
BEST = f"{RUN}/checkpoints/best.ckpt"
LONGEST = 600  # characters; a longer sentence is not read

TRAIN = ("train", "fit", "-c", "small.yaml", "--trainer.max_epochs", "1")
EVALUATE = ("evaluate", "test", "-c", f"{RUN}/train.yaml", "-c", "attacks.yaml", "--ckpt_path", "best")
TABLE = ("compare", "table", RUN)


@dataclass(frozen=True)
class Broken:
    """A file that is broken in some way, and what a command makes of it.

    Args:
        path: The file; a pattern, whose first match is taken.
        content: What it is replaced by, or a function that breaks it; None removes it.
        words: What the sentence contains; empty if the command is to succeed, with the records of the whole run.
        command: The command.
        status: Exit status.
    """

    path: str
    content: bytes | str | Callable[[Path], None] | None
    words: str = ""
    command: tuple[str, ...] = EVALUATE
    status: int = 2

    def __str__(self) -> str:
        kind = self.content.__name__ if callable(self.content) else repr(self.content)[:20]
        return f"{self.command[1]} with {self.path.rpartition('/')[2]} {kind}"


def half(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()  # it may be linked
    path.write_bytes(content[: len(content) // 2])


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def wrong_type(path: Path) -> None:
    path.write_text(path.read_text().replace('"linf": 0', '"linf": "x", "was": 0', 1))


def binary_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"\x00\xff junk\n", *lines[1:]]))


def without_a_value(path: Path) -> None:
    path.write_text(path.read_text().replace('"success": ', '"succes": ', 1))


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def large_junk(path: Path) -> None:
    path.write_bytes(b"\x89PNG junk" * 4000)


def other_object(path: Path) -> None:
    path.unlink()
    torch.save([1, 2], path)


def without_a_tensor(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint["state_dict"]["network.fc.bias"]
    path.unlink()
    torch.save(checkpoint, path)


def with_nan(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["state_dict"]["network.fc.bias"][:] = torch.nan
    path.unlink()
    torch.save(checkpoint, path)


def of_another_network(path: Path) -> None:
    path.unlink()
    save_file({"weight": torch.ones(2)}, path)


JUNK = b"\x00\x01\xff junk"
JOURNAL, PANEL, PICTURE = f"{EVALUATION}/journal/*.jsonl", f"{EVALUATION}/panels/*.json", f"{EVALUATION}/panels/*.png"
SPLITS = ("--data.split_file", "splits.csv")
IMAGE = "phantom/*/*/*.jpeg"
WEIGHTS = ("--model.weights", "weights.safetensors")
RECORDS = ("compare", "records", EVALUATION, EVALUATION)
JUDGE = (*EVALUATE, "--transfer.judges", '{"other": "other.ckpt"}')
CASES = [
    *(Broken(JOURNAL, content) for content in (torn, half, "", None)),
    Broken(JOURNAL, wrong_type, "column 'linf' is Float64, got String; delete the line or the file"),
    Broken(JOURNAL, binary_line, "line 2 is damaged"),
    Broken(JOURNAL, without_a_value, "column 'success' needs a value"),
    Broken(JOURNAL, "[1, 2]\n", "rank-0-0.jsonl"),
    Broken(JOURNAL, '{"schema": 99}\n', "reads records of schema"),
    Broken(JOURNAL, folder_instead, "is a folder", status=1),
    *(Broken(f"{EVALUATION}/manifest.json", content) for content in (half, "", "{}", JUNK, None)),
    *(Broken(f"{EVALUATION}/summary.json", content) for content in (half, "", JUNK)),
    *(Broken(f"{EVALUATION}/summary.json", content, "summary.json", TABLE) for content in (half, "", "{}", JUNK, None)),
    *(Broken(f"{EVALUATION}/records.parquet", content) for content in (half, JUNK)),
    *(
        Broken(
            f"{EVALUATION}/records.parquet", content, "records.parquet", ("compare", "records", EVALUATION, EVALUATION)
        )
        for content in (half, "", JUNK, None)
    ),
    *(Broken(PANEL, content) for content in (half, "", "[]", JUNK)),
    *(Broken(PICTURE, content) for content in (half, "", large_junk, None)),
    Broken(f"{EVALUATION}/evaluate.yaml", JUNK),
    Broken(f"{EVALUATION}/writer.lock", JUNK, "damaged"),
    *(Broken(BEST, content, "best.ckpt") for content in (half, "", "text", JUNK, other_object, without_a_tensor, None)),
    Broken(BEST, with_nan, "not finite"),
    *(Broken(f"{RUN}/train.yaml", content, "train.yaml") for content in ("", JUNK, None)),
    *(
        Broken(f"{RUN}/splits.csv", content, "splits.csv", (*EVALUATE, "--data.split_file", f"{RUN}/splits.csv"))
        for content in ("", JUNK, "id,split\nnone,train\n", "a,b\n1,2\n", None)
    ),
    *(Broken(IMAGE, content, ".jpeg", TRAIN, status=2) for content in (half, "", "text", JUNK)),
    Broken("phantom/phantom.json", JUNK, "", TRAIN),
    *(Broken("small.yaml", content, "small.yaml", TRAIN) for content in ("", JUNK, "a: [1\n b: }")),
    *(
        Broken("weights.safetensors", content, "weights.safetensors", (*TRAIN, *WEIGHTS))
        for content in (half, "", JUNK, of_another_network)
    ),
    *(
        Broken("other.ckpt", content, "other.ckpt", JUDGE)
        for content in (half, "", JUNK, other_object, without_a_tensor)
    ),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained and evaluated, and files of every kind that a command may be given."""
    folder = tmp_path_factory.mktemp("whole")
    before = Path.cwd()
    os.chdir(folder)
    try:
        Path("small.yaml").write_text(CONFIG.replace("patients: 100", "patients: 60"))
        Path("attacks.yaml").write_text(ATTACKS)
        for program, *arguments in (TRAIN, EVALUATE):
            cli.main.main(program, arguments)
        state = torch.load(BEST, weights_only=True)["state_dict"]
        network = {name.removeprefix("network."): tensor for name, tensor in state.items() if "network." in name}
        save_file(network, "weights.safetensors")
        shutil.copy(BEST, "other.ckpt")
    finally:
        os.chdir(before)
    return folder


def linked(source: str, target: str) -> None:
    """Copy a small file, and link a large one."""
    (os.link if source.endswith(".ckpt") else shutil.copy)(source, target)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_broken_file_is_made_again_or_told_in_one_sentence(
    case: Broken, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True, copy_function=linked)
    monkeypatch.chdir(tmp_path)
    path = next(iter(sorted(tmp_path.glob(case.path))), tmp_path / case.path)
    if callable(case.content):
        case.content(path)
    else:
        path.unlink(missing_ok=True)
        if case.content is not None:
            path.write_bytes(case.content.encode() if isinstance(case.content, str) else case.content)
    capfd.readouterr()
    program, *arguments = case.command
    if case.words:
        with pytest.raises(SystemExit) as left:
            compare.main(arguments) if program == "compare" else cli.main.main(program, arguments)
        (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert left.value.code == case.status, said
        assert case.words in said and len(said) <= LONGEST, said
    else:
        cli.main.main(program, arguments)
        expected, records = (read_records(folder / EVALUATION) for folder in (whole, tmp_path))
        assert not list(differences(expected, records, tolerance=1e-6))  # images have other batch mates
