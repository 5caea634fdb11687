"""Times the loaders, from files and from a cache, against a bare loop that decodes, and beside a victim."""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from benchmarks.contenders import Block, Run
from benchmarks.sign_gradient import DOCUMENTATION, RESULTS, against, described, interleave, store, timed
from benchmarks.tables import cost, heading, table, write_documentation
from datamodules import ChestXRay
from datamodules.splits import Fractions

LIBRARIES = ("torch", "numpy", "opencv-python-headless", "pillow", "albumentations")
HEIGHT, WIDTH, SIDE = 1000, 1300, 224  # of the files, as a typical X-ray of the public set, and of the batches
BATCH = 16
MOST, LEAST = 1.3, 10.0  # files / bare loop, and files / cache
BARE, FILES, CACHE = "bare loop", "from files", "from the cache"
KINDS: dict[str, tuple[Literal[1, 3], bool]] = {
    "grey": (1, False),
    "grey, as 3 channels": (3, False),
    "colour": (3, True),
}


def write_files(root: Path, count: int, colour: bool) -> None:
    """JPEG files of smooth structures under noise, in the layout of the public X-rays."""
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = random.integers(0, 256, (40, 52, 3) if colour else (40, 52)).astype(np.float32)
        pixels = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        pixels = (pixels + random.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        folder = root / "train" / ("NORMAL", "PNEUMONIA")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"scan{number}.jpeg", quality=90)


def bare(paths: list[Path], channels: int) -> Run:
    """The loop that anyone would write: decode, scale the short side, cut the centre, to float, stack."""

    def run() -> Tensor:
        images = []
        for path in paths:
            pixels = np.asarray(Image.open(path).convert("L" if channels == 1 else "RGB"))
            height, width = pixels.shape[:2]
            scale = SIDE / min(height, width)
            size = (round(width * scale), round(height * scale))
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], channels)
            top, left = (size[1] - SIDE) // 2, (size[0] - SIDE) // 2
            square = small[top : top + SIDE, left : left + SIDE].astype(np.float32) / 255
            images.append(torch.from_numpy(square).permute(2, 0, 1).contiguous())
        return torch.stack(images)

    return run


def drained(module: ChestXRay, loader: str) -> Run:
    """All batches of a loader, one after the other."""
    loaded = module.train_dataloader() if loader == "train" else module.dataloader_of("train")

    def run() -> Tensor:
        for batch in loaded:
            last = batch["image"]
        return last

    return run


def loaders(root: Path, channels: Literal[1, 3], cached: bool) -> dict[str, Run]:
    """The loaders of an evaluation and of a training."""
    module = ChestXRay(
        root,
        image_size=SIDE,
        channels=channels,
        batch_size=BATCH,
        num_workers=0,
        fractions=Fractions(1, 0, 0, 0),
        cache="disk" if cached else "none",
    )
    module.setup()
    where = CACHE if cached else FILES
    return {where: drained(module, "evaluation"), f"{where}, augmented": drained(module, "train")}


def victim(network: torch.nn.Module, step: str, device: torch.device) -> Run:
    """One step of a training or of an attack on a batch."""
    images = torch.rand(BATCH, 3, SIDE, SIDE, device=device)
    classes = torch.zeros(BATCH, dtype=torch.long, device=device)

    def train() -> Tensor:
        """Forward and backward to the weights."""
        network.train().requires_grad_()
        loss = functional.cross_entropy(network(images), classes)
        loss.backward()
        network.zero_grad()
        return loss.detach()

    def attack() -> Tensor:
        """Forward and backward to the images."""
        network.eval().requires_grad_(False)
        leaf = images.clone().requires_grad_()
        loss = functional.cross_entropy(network(leaf), classes, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]

    return {"training step": train, "attack's step": attack}[step]


def measure(folder: Path, count: int, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Seconds for each image, by kind of images and contender."""
    blocks = []
    for kind, (channels, colour) in KINDS.items():
        root = folder / ("colour" if colour else "grey")
        if not root.exists():
            write_files(root, count, colour)
        runs = {BARE: bare(sorted(root.rglob("*.jpeg")), channels)}
        for cached in (False, True):
            runs |= loaders(root, channels, cached)
        blocks.append(Block(kind, 1, 1, runs))
    network = timm.create_model("resnet18", num_classes=2).to(device)
    steps = {step: victim(network, step, device) for step in ("training step", "attack's step")}
    blocks.append(Block("ResNet-18", 1, 1, steps))
    for block in blocks:
        for run in block.runs.values():
            timed(run, 1, device)
    seconds, _ = interleave(blocks, rounds, device, "loading")
    rows = []
    for block in blocks:
        images = BATCH if block.method == "ResNet-18" else count
        spent = seconds[block.name]
        floor = next(iter(block.runs))
        for key in block.runs:
            measured = against(spent[key], spent[floor])
            speed = images / measured["seconds"]
            row = {"images": block.method, "contender": key, "images_per_second": speed} | measured
            if key == FILES:
                row["over_cache"] = against(spent[key], spent[CACHE])["ratio"]
            rows.append(row)
    return rows


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    rows = result["rows"]
    body = [
        [
            row["images"],
            row["contender"],
            f"{row['images_per_second']:.0f}",
            "" if row["images"] == "ResNet-18" else cost(row),
        ]
        for row in rows
    ]
    judged = []
    for row in (row for row in rows if row["contender"] == FILES):
        ok = "reached" if row["ratio"] <= MOST and row["over_cache"] >= LEAST else "missed"
        judged.append(
            [row["images"], f"{MOST:.1f}", f"{row['ratio']:.2f}", f"{LEAST:.0f}", f"{row['over_cache']:.1f}", ok]
        )
    about = (
        f"{result['count']} JPEG files of {WIDTH} x {HEIGHT} pixels, resized to {SIDE}; batches of {BATCH}, one "
        f"process, {result['rounds']} rounds; medians of the rounds (quartiles)."
    )
    return "\n\n".join(
        [
            *heading(result),
            about,
            table(["images", "contender", "images/s", "time / bare loop"], body),
            table(["aim", "files / bare loop, at most", "measured", "files / cache, at least", "measured", ""], judged),
        ]
    )


def in_own_cache(run: Callable[[Path], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Measure with files and caches in a folder that is removed afterwards."""
    before = os.environ.get("MEDROBUST_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDROBUST_CACHE"] = f"{folder}/cache"
        try:
            return run(Path(folder))
        finally:
            os.environ.pop("MEDROBUST_CACHE")
            if before is not None:
                os.environ["MEDROBUST_CACHE"] = before


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu", help="where the victim is")
    parser.add_argument("--quick", action="store_true", help="a short trial with few files that stores nothing")
    parser.add_argument("--tables", action="store_true", help="measure nothing; only rewrite the documentation")
    arguments = parser.parse_args()
    if arguments.tables:
        write_documentation(DOCUMENTATION, RESULTS, "loading", render)
        return
    cv2.setNumThreads(1)
    load, device = os.getloadavg()[0], torch.device(arguments.device)
    count, rounds = (8, 2) if arguments.quick else (48, arguments.rounds)
    rows = in_own_cache(lambda folder: measure(folder, count, rounds, device))
    result = described("loading", device, LIBRARIES, load) | {"count": count, "rounds": rounds, "rows": rows}
    print(render(result))
    if not arguments.quick:
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "loading", render)


if __name__ == "__main__":
    main()
