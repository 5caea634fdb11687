"""What a victim is defended by, in words: in report, console and Markdown, from what manifests hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medrobust.results.defences import defences_of
from medrobust.results.manifest import write_manifest
from medrobust.results.report.page import finish
from medrobust.results.report.tables import console_table, markdown_table
from medrobust.results.summary import read_summary
from tests.results.test_report import evaluation, read

PGD = {"class": "PGD", "epsilon": 2 / 255, "steps": 5, "step_size": 0.75 / 255, "objective": None}
# 100 images, of which each took 3 + 3 + 2 forwards and 3 + 2 backwards
COUNTS = {"images": 100, "forwards": 800, "backwards": 500, "choosing_forwards": 1200, "choosing_backwards": 34}
TRADES = {"defence": {"class": "Trades", "attack": PGD, "warm_up": 3, "weight": 6.0}, **COUNTS}
THROUGH = [{"gradient": "straight_through", "samples": None}]
JPEG = {"input_defence": {"class": "JPEGCompression", "quality": 75}, "input_defence_under_attack": THROUGH}
TRAINED = (
    "trained by TRADES with weight 6 against PGD at ε = 2/255, 5 steps of 0.75/255, with 3 epochs of warm-up: 13.0 "
    "passes per image and epoch (plain training makes 2), 1,300 up to this checkpoint, and 1,234 on Val to choose it"
)
BEHIND = "behind JPEG compression (quality 75): attacks see through it by straight-through gradients (BPDA)"


def training(name: str, attack: dict[str, Any] = PGD, **settings: Any) -> dict[str, Any]:
    return {"defence": {"defence": {"class": name, "attack": attack, "warm_up": 0, **settings}}}


@pytest.mark.parametrize(
    ("victim", "lines"),
    [
        ({}, []),
        ({"defence": None}, []),
        ({"defence": TRADES, **JPEG}, [TRAINED, BEHIND]),
        (
            training("AdversarialTraining", weight=1.0),
            ["trained by adversarial training against PGD at ε = 2/255, 5 steps of 0.75/255"],
        ),
        (
            training("AdversarialTraining", {"class": "FGSM", "epsilon": 8 / 255, "steps": 1}, weight=0.5),
            ["trained by adversarial training with weight 0.5 against FGSM at ε = 8/255, 1 step"],
        ),
        (
            training("Mart", {"class": "LogDomain", "epsilon": 0.1, "domain": "log"}, weight=5),
            ["trained by MART with weight 5 against LogDomain at ε = 0.1 in the logarithm"],
        ),
        (training("Own", {"class": "OwnAttack"}), ["trained by Own against OwnAttack"]),
        ({"input_defence": {"class": "BitDepth", "bits": 4}}, ["behind reduced bit depth (bits 4)"]),
        (
            {
                "input_defence": [
                    {"class": "RandomResizing", "smallest": 0.8, "samples": 8, "seed": 0},
                    {"class": "GaussianSmoothing", "sigma": 1.0},
                ],
                "input_defence_under_attack": [
                    {"gradient": "exact", "samples": 8},
                    {"gradient": "exact", "samples": None},
                ],
            },
            [
                "behind random resizing (smallest 0.8): attacks see the mean over 8 draws (EOT)",
                "behind Gaussian smoothing (sigma 1.0): attacks follow its own gradient",
            ],
        ),
        (
            {
                "input_defence": {"class": "Own"},
                "input_defence_under_attack": [{"gradient": "straight_through", "samples": 1}],
            },
            [
                "behind Own: attacks see through it by straight-through gradients (BPDA) of the mean over 1 draw (EOT)",
            ],
        ),
    ],
)
def test_defences_in_words(victim: dict[str, Any], lines: list[str]) -> None:
    assert [defence.line() for defence in defences_of({"victim": victim})] == lines


def test_attacks_from_a_surrogate_do_not_see_an_input_defence() -> None:
    (defence,) = defences_of({"victim": JPEG, "listeners": {"surrogate": "0123"}})
    assert defence.detail == "attacks are crafted on the surrogate, which is not behind it"


def test_report_console_and_markdown_say_what_the_victim_is_defended_by(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, [("pgd", 1 / 255, False, 0.5)], panels=0, victim={"name": "net"})
    _, bare = read(folder)
    assert "Trained by" not in bare.text and "Input defence" not in bare.text
    assert markdown_table(read_summary(folder)).startswith("| attack")

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["victim"] |= {"defence": TRADES, **JPEG}
    write_manifest(folder, manifest)
    _, page = read(folder)
    shown = " ".join(page.text.split())
    for words in ("Trained byTRADES with weight 6", "against PGD at ε = 2/255, 5 steps of 0.75/255", "13.0 passes"):
        assert words in shown
    assert "Input defenceJPEG compression (quality 75)attacks see through it by straight-through" in shown
    under_what_was_run = "defencedefence Trades (attack PGD (epsilon 2/255"
    assert under_what_was_run in shown and "{'class'" not in shown
    summary = finish(folder)
    assert markdown_table(summary).startswith(f"The victim is {TRAINED}.\n\nThe victim is {BEHIND}.\n\n| attack")
    console = Console(width=80, record=True, file=(tmp_path / "console").open("w"))
    console.print(console_table(summary, 80))
    printed = " ".join(console.export_text().split())
    assert f"demo: phantom adv_test victim {TRAINED} victim {BEHIND} attack ε" in printed
