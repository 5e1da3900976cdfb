"""The folder of a training run: what it is, where it stands, what it said.

recipe.yaml      the settings that decide the result
run.json         the same with data and efficiency; its identity must not change
metrics.jsonl    one line per interval
checkpoints/     states to continue from
model/           the model directory, written at the end
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.checkpoints.model_dir import CONFIG_FILE
from ..core.config_tree import to_plain
from ..core.errors import UsageError
from ..core.files import write_text
from ..core.training.distributed import ALONE, Ranks
from ..datasets.errors import DataError
from .locks import locked

FORMAT = 1


@dataclass(frozen=True)
class RunFolder:
    """Paths and log of a run.

    Args:
        path: the folder.
        identity: checksum of everything that decides the result.
        writes: whether this process may write; only the first one of a run does.
    """

    path: Path
    identity: str = ""
    writes: bool = True

    @property
    def checkpoints(self) -> Path:
        """Folder of the states."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The log."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """Model directory of a finished run."""
        return self.path / "model"

    @property
    def finished(self) -> bool:
        """Whether the model is there."""
        return (self.model / CONFIG_FILE).is_file()

    def log(self, line: Mapping[str, Any]) -> None:
        """Append a line; what is not finite becomes null, which JSON knows."""
        if not self.writes:
            return
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(_finite(line), allow_nan=False) + "\n")

    def log_size(self) -> int:
        """Return the bytes of the log so far."""
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def cut_log(self, size: int) -> None:
        """Forget lines that were written after the state that a run continues from."""
        if self.writes and self.metrics.exists():
            with self.metrics.open("r+b") as stream:
                stream.truncate(min(size, self.log_size()))

    def read_log(self) -> list[dict[str, Any]]:
        """Return the lines of the log; a last line that a kill cut off is left out."""
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1]]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@contextmanager
def claimed_run(
    out: Path,
    kind: str,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    efficiency: Mapping[str, Any],
    ranks: Ranks = ALONE,
) -> Iterator[RunFolder]:
    """Hold a folder for one run, new or continued, and make sure that it is the same run.

    Args:
        out: the folder.
        kind: "pretrain" or "finetune".
        settings: plain data of all settings that decide the result.
        data: plain data about the samples and weights that it starts from.
        efficiency: settings that may differ from call to call.
        ranks: the processes of the run; the first one claims the folder for all.

    Raises:
        UsageError: when another process works there, or the folder is of another run; it names
            every difference.
    """
    wanted = {"kind": kind, "recipe": to_plain(settings), "data": to_plain(data)}
    identity = digest(wanted)
    if not ranks.first:
        if (code := ranks.tell(None)) is not None:
            raise SystemExit(code)
        yield RunFolder(out, identity, writes=False)
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / "lock", out, "run"))
            _claim(out, wanted, identity, to_plain(efficiency))
        except Exception as error:
            ranks.tell(getattr(error, "exit_code", 1))
            raise
        ranks.tell(None)
        yield RunFolder(out, identity)


def _claim(out: Path, wanted: Mapping[str, Any], identity: str, efficiency: Any) -> None:
    import yaml

    before = read_run(out) if (out / "run.json").exists() else None
    if before is not None and before["identity"] != identity:
        raise _other_run(out, before, wanted)
    if before is None and (out / "checkpoints").exists():
        raise UsageError(out, "holds states of a run without run.json", "choose another --out")
    write_text(out / "recipe.yaml", yaml.safe_dump(wanted["recipe"], sort_keys=False))
    content = {"format": FORMAT, **wanted, "identity": identity, "efficiency": efficiency}
    write_text(out / "run.json", json.dumps(content, indent=1) + "\n")


def digest(value: Any) -> str:
    """Return a checksum of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of a run's run.json.

    Raises:
        DataError: when there is none or it cannot be read.
    """
    file = path / "run.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            path, "is not the folder of a run (no run.json)", "give what --out named"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(file, f"cannot be read ({error})", "choose another --out") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(file, f"is not of format {FORMAT}", "choose another --out")
    return content


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Return a line for every leaf of two plain trees that differs: "optim.base_lr 0.1 -> 0.2"."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        found = []
        for key in dict.fromkeys([*before, *after]):
            path = f"{where}.{key}" if where else str(key)
            found += differences(before.get(key), after.get(key), path)
        return found
    return [] if before == after else [f"{where} {before!r} -> {after!r}"]


def _other_run(out: Path, before: Mapping[str, Any], wanted: Mapping[str, Any]) -> UsageError:
    parts = ("kind", "recipe", "data")
    changed = [d for part in parts for d in differences(before.get(part), wanted[part], part)]
    shown = ", ".join(changed[:8]) + (f" and {len(changed) - 8} more" if len(changed) > 8 else "")
    return UsageError(
        out,
        f"holds a run with other settings ({shown})",
        "choose another --out, or give the old settings to continue",
    )
