"""Show static tools the package as it looks when installed: `build/tree/mimkit/core` and so on.

Checkers of types and of import directions look at folders and do not run the import hook of an
editable install. This makes a folder of links that has the layout of the installed package.
"""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ROOTS = ("core", "datasets", "domains", "pipelines")


def build_link_tree(repository: Path, target: Path) -> Path:
    """Link every part of the package into `target/mimkit` and return that folder."""
    package = target / "mimkit"
    package.mkdir(parents=True, exist_ok=True)
    parts = [p for p in (repository / "mimkit").iterdir() if p.name != "__pycache__"]
    wanted = {p.name: p for p in (*parts, *(repository / root for root in ROOTS))}
    for link in package.iterdir():
        if link.name not in wanted or link.resolve() != wanted[link.name].resolve():
            link.unlink()
    for name, part in wanted.items():
        if not (package / name).is_symlink():
            (package / name).symlink_to(part)
    return package


if __name__ == "__main__":
    build_link_tree(REPOSITORY, REPOSITORY / "build" / "tree")
