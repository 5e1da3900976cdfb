"""Several processes, engines and states: the same losses whoever computes and whoever goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_cases import HALF, STEPS, WITH_TEACHER, checksum, go_on, keep, make, train
from rank_jobs import ends, only_job, pretrain_words, start, torchrun
from tiny_store import pretrain_tiny

from mimkit.core.checkpoints.model_dir import load_model
from mimkit.core.checkpoints.run_state import load_latest, read_state
from mimkit.core.errors import UsageError
from mimkit.core.training.deepspeed_config import Sharding, check_sharding, deepspeed_config
from mimkit.core.training.distributed import Ranks, ranks_of
from mimkit.core.training.optim import OptimConfig
from mimkit.pipelines.cli import main
from mimkit.pipelines.distributed import check_share

pytestmark = [pytest.mark.xdist_group("ranks"), pytest.mark.timeout(900)]

# Sums are rounded in another order: 2e-6 of a loss is some 16 units in the last place.
CLOSE = 2e-6


def test_engines_ranks_and_states_agree(tmp_path: Path) -> None:
    """One job of two processes runs all cases, because starting one takes longer than any."""
    alone = make("plain")
    whole = train(alone, range(HALF))
    keep(alone, tmp_path, "alone")
    whole += train(alone, range(HALF, STEPS))
    script = Path(__file__).parents[1] / "tools" / "rank_cases.py"
    with only_job():
        said = ends(start(torchrun([str(script), str(tmp_path)])), 800)
    assert (tmp_path / "cases.json").exists(), said[-3000:]
    found: dict[str, Any] = json.loads((tmp_path / "cases.json").read_text())

    kinds = ["plain", "zero0", "zero1", "zero2", "zero3", "zero2+offload", "zero3+offload"]
    for kind in kinds:
        assert found[kind] == pytest.approx(whole, rel=CLOSE), kind
    assert found["sharded"] > 0.8  # of the weights of a network whose blocks are tiny
    for case in [name for name in found if " -> " in name]:
        first, second = case.split(" -> ")
        if first == second:
            assert found[case] == found[first][HALF:], f"{case}: not the same bits"
        assert found[case] == pytest.approx(whole[HALF:], rel=CLOSE), case
    for kind in ("plain", "zero1", "zero3", "zero2+offload"):  # two processes, then one
        assert go_on(make("plain"), tmp_path, kind) == pytest.approx(whole[HALF:], rel=CLOSE), kind

    teacher = make("plain", method=WITH_TEACHER)
    losses, sums = train(teacher, range(STEPS)), checksum(teacher)
    assert sums["teacher"] > 0
    for kind in ("plain", "zero1", "zero3"):
        assert found[f"teacher {kind}"][0] == pytest.approx(losses, rel=CLOSE), kind
        assert found[f"teacher {kind}"][1] == pytest.approx(sums, rel=1e-5), kind
    for precision in ("bf16", "fp16"):
        assert found[f"{precision} plain"] == found[f"{precision} zero2"] != found["plain"]
        assert found[f"{precision} plain"] == pytest.approx(whole, rel=0.03)
    for kind, end in found["not finite"].items():
        assert end["same"], f"{kind}: a bad step changed the state"


def test_a_run_of_two_processes_is_continued_by_one_and_the_other_way_round(
    dense_store: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Through the command line: DeepSpeed on two, then plain on one, then DeepSpeed on one."""
    out = tmp_path / "run"
    stops = ("--efficiency.checkpoint-every", "1", "--efficiency.keep", "100")
    words = pretrain_words(dense_store, out, *stops)
    words += ["--efficiency.engine", "deepspeed", "--efficiency.zero-stage", "2"]
    with only_job():
        process = start(torchrun(["--module", "mimkit", *words]))
        said = ends(process, 600)
    assert process.returncode == 0, said[-3000:]
    same_run(out, pretrained)
    forget_from(out, 4)
    pretrain_tiny(dense_store, out, *stops)
    same_run(out, pretrained)
    forget_from(out, 7)
    pretrain_tiny(dense_store, out, *stops, "--efficiency.engine", "deepspeed")
    same_run(out, pretrained)
    state = load_latest(out / "checkpoints")
    assert state is not None
    assert (state.meta["world"], state.meta["engine"]) == (1, "deepspeed")


def same_run(run: Path, other: Path) -> None:
    """Assert that two runs said and ended up with the same, but for rounding."""
    lines, wanted = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (run, other)
    )
    assert [line["step"] for line in lines] == [line["step"] for line in wanted]
    for line, known in zip(lines, wanted, strict=True):
        for name in {"loss", "grad_norm", "lr"} & set(known):
            assert line[name] == pytest.approx(known[name], rel=1e-4), (line["step"], name)
    expected = load_model(other / "model").method.state_dict()
    for name, value in load_model(run / "model").method.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def forget_from(run: Path, step: int) -> None:
    """Take a run back to its state after some steps."""
    import shutil

    shutil.rmtree(run / "model")
    for path in (run / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


ENDING = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
from mimkit.core.training.distributed import ALONE, end_process, join

end_process(9)  # met nobody: returns
if sys.argv[2] == "met":
    join(ALONE, torch.device("cpu"), alone_too=True)

def write():
    time.sleep(0.5)
    Path(sys.argv[1]).write_text("whole")

threading.Thread(target=write, name="mimkit-state-writer").start()
pool = ThreadPoolExecutor(1)
pool.submit(int).result()  # its thread waits for more work, until Python's end
print("said", end="")
end_process(3)
sys.exit(4)
"""


@pytest.mark.parametrize(("met", "code"), [("met", 3), ("alone", 4)])
def test_a_process_of_a_group_ends_without_taking_python_down(
    tmp_path: Path, met: str, code: int
) -> None:
    """Gloo's threads would be ended halfway otherwise, and SIGABRT would end a run that is done."""
    command = [sys.executable, "-c", ENDING, str(tmp_path / "state"), met]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (code, "said"), done.stderr
    assert (tmp_path / "state").read_text() == "whole"


LAUNCHED = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}
LAUNCHED |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--efficiency.device", "cpu"],
            "batch_size 4: cannot be shared evenly by 3 processes; use --batch-size 3",
        ),
        (["--batch-size", "6", "--efficiency.device", "cuda:1"], "is one device for 3 processes"),
        (["--batch-size", "6", "--efficiency.device", "cuda"], "3 processes on this machine: are"),
    ],
)
def test_what_ranks_cannot_do_is_said_before_they_meet(
    dense_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    said: str,
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = pretrain_words(dense_store, tmp_path / "run", *options)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    assert main(words) == 2
    assert capsys.readouterr().err == ""  # one process of a machine has said it


def test_mixed_images_stay_in_one_process() -> None:
    check_share(16, Ranks(0, 2), multiple=4)
    with pytest.raises(UsageError, match="use --batch-size 16"):
        check_share(20, Ranks(0, 2), multiple=4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--efficiency.offload"], "efficiency.offload: is for DeepSpeed only"),
        (["--efficiency.zero-stage", "3"], "zero_stage 3: is for DeepSpeed only"),
        (["--efficiency.rank-timeout", "0"], "rank_timeout 0.0: is no number of seconds"),
    ],
)
def test_options_of_the_other_engine_are_refused(
    dense_store: Path,
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(pretrain_words(dense_store, tmp_path / "run", *options)) == 2
    assert said in capsys.readouterr().err


def test_sharding_that_cannot_work_is_refused() -> None:
    for sharding, precision, compile, said in (
        (Sharding(stage=0, offload=True), "fp32", False, "nothing that could be offloaded"),
        (Sharding(stage=0), "fp16", False, "no loss scaling"),
        (Sharding(stage=3), "bf16", True, "leave --efficiency.compile out"),
    ):
        with pytest.raises(UsageError, match=said):
            check_sharding(sharding, precision, compile)  # type: ignore[arg-type]
    check_sharding(Sharding(stage=3, offload=True), "fp16", False)


def test_a_half_told_launcher_is_explained() -> None:
    assert ranks_of({}) == Ranks()
    assert ranks_of({"WORLD_SIZE": "1"}) == Ranks()
    with pytest.raises(UsageError, match="lacks LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        ranks_of({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UsageError, match="names rank 3 of 3"):
        ranks_of({**LAUNCHED, "RANK": "3"})


def test_the_configuration_of_deepspeed_follows_from_the_recipe() -> None:
    optim = OptimConfig(clip_grad=0.5)
    config = deepspeed_config(optim, Sharding(stage=2, offload=True), batch_size=64, world=4)
    assert config["train_batch_size"] == 64
    assert config["train_micro_batch_size_per_gpu"] == 16
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["bf16"]["check_grad_overflow"] is True
    assert deepspeed_config(optim, Sharding(stage=0), batch_size=64)["gradient_clipping"] == 0


def test_a_state_with_changed_numbers_is_damaged(pretrained: Path, tmp_path: Path) -> None:
    import shutil

    state = max((pretrained / "checkpoints").iterdir())
    copy = tmp_path / state.name
    shutil.copytree(state, copy)
    assert read_state(copy) is not None
    meta = json.loads((copy / "meta.json").read_text())
    meta["meta"]["total"] += 1
    (copy / "meta.json").write_text(json.dumps(meta))
    assert read_state(copy) is None
