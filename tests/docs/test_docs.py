"""The documentation is run: every command of a tutorial, and every link of every page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
TUTORIALS = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))
NEED_NOTHING = {"satellite"}  # its scene comes with the package
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def commands(page: Path) -> list[str]:
    """Return the blocks of a tutorial as shell scripts, in order: ```bash and ```python."""
    scripts = []
    for language, body in FENCE.findall(page.read_text()):
        if language == "bash":
            scripts.append(body)
        elif language == "python":
            scripts.append(f"python - <<'PYTHON'\n{body}PYTHON\n")
    return scripts


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://", "#", "mailto:")):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_runs_as_written(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The samples of a tutorial's domain lie beside its commands under the name of the domain."""
    if page.stem not in NEED_NOTHING:
        (tmp_path / page.stem).symlink_to(request.getfixturevalue("samples") / page.stem)
    scripts = commands(page)
    assert scripts, f"{page} has nothing to run"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    script = "set -euo pipefail\n" + "\n".join(scripts)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
