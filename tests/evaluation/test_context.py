"""The context: one process alone, two that share the images, and what is moved to a device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medrobust.evaluation import EvaluationContext
from medrobust.evaluation.context import to_device

ROOT = Path(__file__).resolve().parents[2]


def test_a_process_alone_is_the_first_and_hears_itself() -> None:
    context, value = EvaluationContext(), object()
    assert (context.rank, context.ranks, context.is_first) == (0, 1, True)
    assert context.device == torch.device("cpu")
    assert context.gather(value) == [value]
    assert context.broadcast(value) is value
    context.barrier()


def test_a_device_may_be_named() -> None:
    assert EvaluationContext("cuda:1").device == torch.device("cuda", 1)


@pytest.mark.parametrize(("shown", "rank", "bar"), [(True, 0, True), (True, 1, False), (False, 0, False)])
def test_progress_gives_every_item_and_only_the_first_process_shows_a_bar(
    shown: bool, rank: int, bar: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # elsewhere there is a line now and then
    context = EvaluationContext(show_progress=shown)
    context.rank = rank
    assert list(context.progress(iter([3, 1, 2]), "counting")) == [3, 1, 2]
    printed = capfd.readouterr()
    assert ("counting" in printed.err) == bar
    assert not printed.out


def test_batches_are_those_of_the_loader_on_the_device() -> None:
    batches = [{"image": torch.ones(2, 1, 2, 2), "target": torch.tensor([0, 1]), "id": ["a", "b"]}]
    (moved,) = EvaluationContext("meta").batches(batches, "reading")
    assert moved["image"].device.type == moved["target"].device.type == "meta"
    assert moved["id"] == ["a", "b"]
    assert batches[0]["image"].device.type == "cpu"


def test_tensors_are_moved_wherever_they_lie_and_nothing_else_is_changed() -> None:
    value: Any = {"boxes": [{"boxes": torch.zeros(1, 4)}], "pair": (torch.ones(1), "name"), "count": 3}
    moved = to_device(value, torch.device("meta"))
    assert moved["boxes"][0]["boxes"].is_meta and moved["boxes"][0]["boxes"].shape == (1, 4)
    assert moved["pair"][0].is_meta
    assert moved["pair"][1] == "name" and moved["count"] == 3


TWO = """
import json, os, sys
import torch
from torch import distributed
from medrobust.evaluation import EvaluationContext

port, folder = sys.argv[1:]
child = os.fork()  # after the imports, which take seconds
rank = 0 if child else 1
distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
context = EvaluationContext()
gathered = context.gather({"rank": rank, "ids": ["b", "a"][rank:], "values": torch.arange(3 - rank)})
said = {
    "rank": [context.rank, context.ranks, context.is_first],
    "gathered": [{**part, "values": part["values"].tolist()} for part in gathered],
    "broadcast": context.broadcast({"chosen": rank, "weights": torch.tensor([rank])})["weights"].tolist(),
    "nothing": context.broadcast(None if rank == 0 else "something"),
}
context.barrier()
with open(f"{folder}/{rank}.json", "w") as out:
    json.dump(said, out)
distributed.destroy_process_group()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.processes
def test_two_processes_hear_each_other_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", TWO, port, str(tmp_path)]
    ended = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    said = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["rank"] for one in said] == [[0, 2, True], [1, 2, False]]
    expected = [{"rank": 0, "ids": ["b", "a"], "values": [0, 1, 2]}, {"rank": 1, "ids": ["a"], "values": [0, 1]}]
    for one in said:
        assert one["gathered"] == expected
        assert one["broadcast"] == [0]
        assert one["nothing"] is None
