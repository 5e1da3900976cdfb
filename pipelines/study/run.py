"""`mimkit evaluate --study DOMAIN`: all parts, one page with commands and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...core.errors import UsageError
from ...core.files import replacing, write_text
from ..progress import say
from . import clouds, ct, faces, finetuning, reconstruct, scaling, scenes, settings
from .page import Section
from .units import Study

READING = "## Reading"


def run_study(study: Study, parts: tuple[str, ...], out: Path, domain: str = "satellite") -> Path:
    """Run parts of a study and write their page.

    Args:
        study: data, seeds, processes.
        parts: which parts; all when none is named.
        out: folder of the page; sections of parts that are not run now stay as they were, and so
            does what people wrote at its end, from the line `## Reading` on.
        domain: which study of `STUDIES`.

    Returns:
        the page.

    Raises:
        UsageError: for an unknown part.
    """
    known = STUDIES[domain]
    for name in parts:
        if name not in known:
            raise UsageError(f"part {name!r}", "is not known", f"use some of {', '.join(known)}")
    folder = study.work / "sections"
    for name in parts or known:
        say(f"study: {name}")
        section = known[name](study)
        for file, png in section.pictures.items():
            write_picture(out / file, png)
        write_text(folder / f"{name}.md", section.text)
    page = out / f"{domain}.md"
    done = [name for name in known if (folder / f"{name}.md").exists()]
    texts = [(folder / f"{name}.md").read_text(encoding="utf-8") for name in done]
    write_text(page, "\n".join([heading(study, done, domain), *texts, *reading(page)]))
    say(f"written: {page}")
    return page


def reading(page: Path) -> list[str]:
    """Return what people wrote at the end of a page; no command could write it again."""
    if not page.exists():
        return []
    _, found, words = page.read_text(encoding="utf-8").partition(f"\n{READING}\n")
    return [f"{READING}\n{words}"] if found else []


def write_picture(path: Path, png: bytes) -> None:
    """Write a picture atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(png)


def heading(study: Study, done: list[str], domain: str = "satellite") -> str:
    """Return the top of the page, which says what is on it and what is not.

    Args:
        study: what was told.
        done: parts that are on the page.
        domain: which study.
    """
    missing = [name for name in STUDIES[domain] if name not in done]
    parts = f" --parts {' '.join(done)}" if missing else ""
    gap = f"\nNot run yet: {', '.join(missing)} (leave out `--parts`).\n" if missing else ""
    return f"""# What pre-training brings: {domain}

All figures on this page are written by one command, on two CPU cores, without a GPU:

```text
mimkit evaluate --study {domain} --samples FOLDER --out docs/results --seeds {study.seeds}{parts}
```
{gap}
FOLDER holds the public sample files that are named below. Finished pieces are kept: a killed
study continues. Numbers are the mean ± sample deviation over {study.seeds} seeds.
"""


PARTS: dict[str, Callable[[Study], Section]] = {
    scenes.NAME: scenes.section,
    finetuning.NAME: finetuning.section,
    reconstruct.NAME: reconstruct.section,
    clouds.NAME: clouds.section,
    settings.NAME: settings.section,
}

STUDIES: dict[str, dict[str, Callable[[Study], Section]]] = {
    "satellite": PARTS,
    "faces": {faces.NAME: faces.section},
    "ct": {ct.NAME: ct.section},
    "scaling": {scaling.NAME: scaling.section},
}
"""Parts of the study of each domain."""
