"""Make the reconstruction pictures of the method pages, from the pixels inside the package.

    python tests/tools/method_pictures.py FOLDER [METHOD ...]

Curates the demo's scene, pre-trains every method that predicts pixels with its small recipe, about
a minute of one core each, and writes docs/images/methods/METHOD.png with `mimkit report`. Runs
are kept in FOLDER and continued; every command is printed.
"""

from __future__ import annotations

import os

# Networks are so small that several threads mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shlex
import sys
from pathlib import Path

from mimkit.pipelines import demo
from mimkit.pipelines.cli import main

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "images" / "methods"
PIXELS = ("--method.target", "pixels")
RECIPES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "a2mim": ("a2mim/tiny", 20, ()),
    "data-scaling": ("data-scaling/tiny", 20, ()),
    "hi-end-mae": ("hi-end-mae/tiny", 6, ()),
    "hpm": ("hpm/tiny", 20, ()),
    "itpn": ("itpn/tiny", 20, ()),
    "localmim": ("localmim/tiny", 6, PIXELS),
    "localmim-swin": ("localmim-swin/tiny", 16, PIXELS),
    "lut": ("lut/tiny", 14, ()),
    "mae": ("satellite/mae-tiny", 10, ()),
    "mff": ("mff/tiny", 8, ()),
    "mixedae": ("mixedae/tiny", 30, ()),
    "mto": ("mto/tiny", 20, ()),
    "ropim": ("ropim/tiny", 20, ()),
    "satvision-toa": ("satvision-toa/tiny", 20, ()),
    "selectivemae": ("satellite/selectivemae-pixels-tiny", 10, ()),
    "simmim": ("simmim/tiny", 20, ()),
    "simmim-vit": ("simmim-vit/tiny", 20, ()),
}
"""Recipe, epochs and further options by method: as many epochs as a minute pays."""


def mimkit(*words: str | Path) -> None:
    """Print a command and run it; a failure ends the program."""
    line = tuple(map(str, words))
    print("$", shlex.join(("mimkit", *line)), flush=True)
    code = main(line)
    if code:
        raise SystemExit(code)


def make(method: str, root: Path, store: Path) -> None:
    """Pre-train a method and write its picture."""
    recipe, epochs, options = RECIPES[method]
    run = root / method
    mimkit(
        *("pretrain", "--recipe", recipe, "--data", store, "--out", run, "--epochs", str(epochs)),
        *("--efficiency.num-threads", "1", "--efficiency.device", "cpu", *options),
    )
    picture = ("--picture", PICTURES / f"{method}.png")
    # A batch of mixed images fits the mix; the picture shows the first two.
    num = "4" if method == "mixedae" else "2"
    small = ("--samples", num, "--points", "20", "--device", "cpu")
    mimkit("report", run, "--data", store, "--out", root / f"{method}.html", *picture, *small)


def run(arguments: list[str]) -> None:
    """Make the pictures of the methods on the command line, or of all.

    Raises:
        SystemExit: for no folder or an unknown method, and when a command fails.
    """
    if not arguments or set(arguments[1:]) - set(RECIPES):
        raise SystemExit(f"{__doc__}\nMethods: {', '.join(RECIPES)}")
    layout = demo.Layout.below(Path(arguments[0]))
    demo.unpack(layout.scenes)
    if not layout.store.exists():
        mimkit(*demo.curate_words(layout))
    for method in arguments[1:] or RECIPES:
        make(method, layout.store.parent, layout.store)


if __name__ == "__main__":
    run(sys.argv[1:])
