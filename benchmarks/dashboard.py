"""Times the page that compares a hundred runs of fifty thousand records each, made up for it, from start to end."""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from PIL import Image

from benchmarks.sign_gradient import DOCUMENTATION, RESULTS, described, store
from benchmarks.tables import heading, table, write_documentation
from medrobust.results.columns import COLUMNS, TYPES
from medrobust.results.manifest import write_json, write_manifest
from medrobust.results.records import RECORDS, SCHEMA
from medrobust.results.summary import SUMMARY, summarise

LIBRARIES = ("numpy", "polars", "jinja2", "PyYAML")
ROOT = Path(__file__).resolve().parents[1]
RUNS, IMAGES, PATIENTS, SIDE, PICTURED = 100, 5000, 1250, 48, 6
RADII = tuple(count / 255 for count in (0.5, 1, 2, 4))
ATTACKS = [
    *(("pgd", "PGD", epsilon, False) for epsilon in RADII),
    *(("fgsm", "FGSM", epsilon, False) for epsilon in RADII),
    *(("noise", "UniformNoise", epsilon, True) for epsilon in RADII[:2]),
]
DETECTORS = ("kd", "lid", "maha", "dfeat")
MOST_SECONDS, MOST_MEGABYTES = 20.0, 5.0  # what a page of a hundred runs may cost


def manifest_of(number: int, images: int) -> dict[str, Any]:
    """The manifest of a made-up run; all have the same images and attacks, so that every pair is compared."""
    attacks = [
        {
            "attack": attack,
            "method": method,
            "epsilon": epsilon,
            "key": f"{number:04d}{place:04d}",
            "parameters": {"class": method, "epsilon": epsilon, "steps": 20, "seed": 0},
            "norm": "linf",
            "minimal": False,
            "control": control,
        }
        for place, (attack, method, epsilon, control) in enumerate(ATTACKS)
    ]
    return {
        "schema": 1,
        "run": f"run_{number:03d}",
        "created": "2026-01-01T00:00:00Z",
        "victim": {"name": f"resnet{10 + number % 4}", "weights": f"{number:016x}", "parameters": 10**6},
        "data": {
            "name": "made_up",
            "split": "adv_test",
            "task": "classification",
            "class_names": ["NORMAL", "PNEUMONIA"],
            "fingerprint": "0123456789abcdef",
            "images": images,
        },
        "listeners": {},
        "attacks": attacks,
    }


def records_of(number: int, manifest: dict[str, Any], images: int) -> pl.DataFrame:
    """Records in which an image falls where the radius exceeds a distance of its own, which grows with the run."""
    random = np.random.default_rng(number)
    shared = np.random.default_rng(0)
    target, patient = shared.integers(0, 2, images), shared.integers(0, PATIENTS, images)
    ids = [
        f"test/{('NORMAL', 'PNEUMONIA')[one]}/person{who}_{place}.jpeg"
        for place, (one, who) in enumerate(zip(target, patient, strict=True))
    ]
    distance = random.exponential((1 + number / RUNS) / 255, images) + shared.exponential(0.5 / 255, images)
    clean = random.random(images) < 0.95
    frames = []
    for entry in manifest["attacks"]:
        strength = {"pgd": 1.0, "fgsm": 0.7, "noise": 0.02}[entry["attack"]]
        after = clean & (distance > strength * entry["epsilon"])
        own: dict[str, Any] = {
            "id": ids,
            "patient": [f"person{who}" for who in patient],
            "target": target,
            "clean_prediction": np.where(clean, target, 1 - target),
            "adversarial_prediction": np.where(after, target, 1 - target),
            "clean_confidence": random.random(images),
            "adversarial_confidence": random.random(images),
            "correct_before": clean,
            "correct_after": after,
            "reached": ~after,
            "success": clean & ~after,
            "quality_before": random.random(images),
            "quality_after": random.random(images),
            "linf": np.full(images, entry["epsilon"]),
            "l2": random.random(images),
            "l0": np.full(images, SIDE * SIDE),
            "forwards": random.integers(1, 21, images),
            "backwards": random.integers(1, 21, images),
        }
        same = {name: manifest["data"][key] for name, key in (("dataset", "name"), ("split", "split"))}
        same |= {name: entry[name] for name in ("key", "attack", "method", "epsilon")}
        same |= {"schema": SCHEMA, "run": manifest["run"], "victim": manifest["victim"]["name"], "goal": None}
        same |= {"zero_gradients": 0, "seed": 0}
        columns = [
            pl.Series(name, own[name]).cast(TYPES[name])
            if name in own
            else pl.Series(name, [same[name]], TYPES[name]).new_from_index(0, images)
            for name in COLUMNS
        ]
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames)


def detection_of(number: int, manifest: dict[str, Any]) -> dict[str, Any]:
    """Results of four detectors; their numbers are drawn, since only their size counts here."""
    random = np.random.default_rng(number)
    curve = np.linspace(0, 1, 60).round(4).tolist()
    rows = []
    for entry in (one for one in manifest["attacks"] if not one["control"]):
        for detector in DETECTORS:
            area = float(random.uniform(0.5, 1))
            share = {"rate": area, "interval": [area - 0.02, area], "n": 1000}
            row = {name: entry[name] for name in ("attack", "epsilon", "key")}
            row |= {"detector": detector, "fit": "same", "n_positive": 1000, "n_negative": 2000, "threshold": 0.5}
            row |= {"auroc": area, "auroc_interval": [area - 0.02, area], "tpr": area, "tpr_interval": [0.4, 0.6]}
            kinds = ("successful", "clean", "noisy", "signs", "unsuccessful")
            row |= {"roc": {"fpr": curve, "tpr": curve}, "controls": {"signs": 0.5, "unsuccessful": 0.5}}
            rows.append(row | {"flagged": dict.fromkeys(kinds, share)})
    return {"detectors": list(DETECTORS), "fits": ["same"], "tnr": 0.9, "rows": rows}


def write_run(root: Path, number: int, images: int, template: dict[str, Any] | None) -> dict[str, Any]:
    """Write one run: manifest, records, summary, pictures and configurations.

    Args:
        root: Folder of the runs.
        number: Number of the run, from 0.
        images: Number of its images.
        template: The summary of an earlier run, whose parts that the page does not check are taken over.

    Returns:
        Its summary.
    """
    folder = root / f"run_{number:03d}" / "evaluate"
    manifest = manifest_of(number, images)
    write_manifest(folder, manifest)
    records = records_of(number, manifest, images)
    records.write_parquet(folder / RECORDS)
    summary = summarise(records, manifest) if template is None else {**template, "manifest": manifest}
    right = int(records.unique("id")["correct_before"].sum())
    summary["rows"][0] |= {"n_correct_before": right, "clean_accuracy": right / images}
    for worst in summary["worst_case"]:
        at = records.filter((pl.col("epsilon") == worst["epsilon"]) & (pl.col("attack") != "noise"))
        standing = int(at.group_by("id").agg(pl.col("correct_after").all())["correct_after"].sum())
        worst |= {"n": images, "n_correct_after": standing, "accuracy": standing / images}
    write_json(folder / SUMMARY, {**summary, "detection": detection_of(number, manifest)})
    (folder / "report.html").write_text("a report")
    write_pictures(folder / "panels", manifest, records["id"][:PICTURED].to_list())
    settings = {f"part_{part}": {f"setting_{place}": place for place in range(20)} for part in range(9)}
    trained = {"seed_everything": 42, "model": {"class_path": "Classifier", "init_args": {"lr": number}}, **settings}
    (folder.parent / "train.yaml").write_text(yaml.safe_dump(trained))
    (folder / "evaluate.yaml").write_text(yaml.safe_dump({**trained, "ckpt_path": f"runs/{number}/best.ckpt"}))
    return summary


def write_pictures(folder: Path, manifest: dict[str, Any], ids: list[str]) -> None:
    """Pictures of the first images under every attack, as the panels of an evaluation."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for place, image in enumerate(ids):
        for name in ("clean", *(entry["key"] for entry in manifest["attacks"])):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(buffer, "PNG")
            (folder / f"{place}-{name}.png").write_bytes(buffer.getvalue())
        for entry in manifest["attacks"]:
            panel = {"key": entry["key"], "attack": entry["attack"], "id": image, "target": 0, "extras": {}}
            panel |= {"clean_prediction": 0, "clean_confidence": 0.9, "adversarial_prediction": 1}
            pictures = {"clean": f"{place}-clean.png", "adversarial": f"{place}-{entry['key']}.png"}
            panel |= {"adversarial_confidence": 0.8, "linf": entry["epsilon"], "images": pictures}
            (folder / f"{place}-{entry['key']}.json").write_text(json.dumps(panel))


def measure(count: int, images: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of wall and of processor time of each command, medians of the rounds, and the size of the page."""
    with tempfile.TemporaryDirectory() as place:
        root, page = Path(place) / "runs", Path(place) / "dashboard.html"
        template = None
        for number in range(count):
            summary = write_run(root, number, images, template)
            template = template or summary
            if sys.stderr.isatty():
                print(f"\rrun {number + 1} of {count} is made up", end="", file=sys.stderr, flush=True)
        print(f"\r{count} runs are made up", file=sys.stderr)
        commands = {"--help": ["--help"], "list": ["list", str(root)]}
        commands["dashboard"] = ["dashboard", str(root), "--out", str(page)]
        rows = []
        for name, arguments in commands.items():
            times = [timed(arguments) for _ in range(rounds)]
            wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
            size = page.stat().st_size if name == "dashboard" else None
            rows.append({"command": name, "seconds": wall, "processor_seconds": processor, "bytes": size})
        return rows


def timed(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one command, in a process of its own, from its start to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, str(ROOT / "compare.py"), *arguments], check=True, capture_output=True, cwd=ROOT)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    body = []
    for row in result["rows"]:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        body.append([row["command"], f"{row['seconds']:.1f}", f"{row['processor_seconds']:.1f}", size])
    page = next(row for row in result["rows"] if row["command"] == "dashboard")
    reached = page["seconds"] <= MOST_SECONDS and page["bytes"] <= MOST_MEGABYTES * 1e6
    about = (
        f"{result['runs']} runs of {result['images'] * len(ATTACKS):,} records each ({result['images']:,} images of "
        f"{PATIENTS:,} patients, {len(ATTACKS)} attacks and controls, {len(DETECTORS)} detectors, pictures of "
        f"{PICTURED} images), all on the same images, so that every pair is compared; {result['rounds']} rounds, "
        f"medians. Aim: a page within {MOST_SECONDS:.0f} s and {MOST_MEGABYTES:.0f} MB, "
        f"{'reached' if reached else 'missed'}."
    )
    head = ["compare.py", "seconds", "processor seconds", "MB"]
    return "\n\n".join([*heading(result), about, table(head, body)])


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a short trial with few runs that stores nothing")
    parser.add_argument("--tables", action="store_true", help="measure nothing; only rewrite the documentation")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="make up the runs there and measure nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        write_documentation(DOCUMENTATION, RESULTS, "dashboard", render)
        return
    count, images = (4, 500) if arguments.quick else (RUNS, IMAGES)
    if arguments.keep:
        template = None
        for number in range(count):
            template = write_run(arguments.keep, number, images, template)
        return
    load = os.getloadavg()[0]
    rows = measure(count, images, 1 if arguments.quick else arguments.rounds)
    result = described("dashboard", torch.device("cpu"), LIBRARIES, load)
    result |= {"runs": count, "images": images, "rounds": arguments.rounds, "rows": rows}
    print(render(result))
    if not arguments.quick:
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "dashboard", render)


if __name__ == "__main__":
    main()
