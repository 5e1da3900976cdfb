"""`mimkit evaluate --study satellite`: all parts, one page with commands and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...core.errors import UsageError
from ...core.files import replacing, write_text
from ..progress import say
from . import clouds, finetuning, reconstruct, scenes, settings
from .page import Section
from .units import Study


def run_study(study: Study, parts: tuple[str, ...], out: Path) -> Path:
    """Run parts of the satellite study and write their page.

    Args:
        study: data, seeds, processes.
        parts: which parts; all when none is named.
        out: folder of satellite.md; sections of parts that are not run now stay as they were.

    Returns:
        the page.

    Raises:
        UsageError: for an unknown part.
    """
    for name in parts:
        if name not in PARTS:
            raise UsageError(f"part {name!r}", "is not known", f"use some of {', '.join(PARTS)}")
    folder = study.work / "sections"
    for name in parts or PARTS:
        say(f"study: {name}")
        section = PARTS[name](study)
        for file, png in section.pictures.items():
            write_picture(out / file, png)
        write_text(folder / f"{name}.md", section.text)
    page = out / "satellite.md"
    done = [name for name in PARTS if (folder / f"{name}.md").exists()]
    texts = [(folder / f"{name}.md").read_text(encoding="utf-8") for name in done]
    write_text(page, "\n".join([heading(study, done), *texts]))
    say(f"written: {page}")
    return page


def write_picture(path: Path, png: bytes) -> None:
    """Write a picture atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(png)


def heading(study: Study, done: list[str]) -> str:
    """Return the top of the page, which says what is on it and what is not.

    Args:
        study: what was told.
        done: parts that are on the page.
    """
    missing = [name for name in PARTS if name not in done]
    parts = f" --parts {' '.join(done)}" if missing else ""
    gap = f"\nNot run yet: {', '.join(missing)} (leave out `--parts`).\n" if missing else ""
    return f"""# What pre-training brings: satellite

Everything on this page is written by one command, on two CPU cores, without a GPU:

```text
mimkit evaluate --study satellite --samples FOLDER --out docs/results --seeds {study.seeds}{parts}
```
{gap}
FOLDER holds the public sample files that are named below. Finished pieces are kept: a killed
study continues. Numbers are the mean ± sample deviation over {study.seeds} seeds. Settings
were chosen on validation parts.
"""


PARTS: dict[str, Callable[[Study], Section]] = {
    scenes.NAME: scenes.section,
    finetuning.NAME: finetuning.section,
    reconstruct.NAME: reconstruct.section,
    clouds.NAME: clouds.section,
    settings.NAME: settings.section,
}
