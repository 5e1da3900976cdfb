"""Make the pictures of the documentation from a finished demo.

    mimkit demo --out runs/demo
    python tests/tools/make_images.py runs/demo docs/images

Writes landcover.png (scene and map), reconstruction.png (held-out tiles: original, what the encoder
saw, reconstruction) and, where a Chromium browser is installed, report.png (the top of the report).
Every file stays below 300 kB.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mimkit.core.checkpoints.model_dir import load_model
from mimkit.domains.domain import get_domain
from mimkit.pipelines.demo import Layout
from mimkit.pipelines.features import stored_batches
from mimkit.pipelines.reporting.chapters import held_out_rows
from mimkit.pipelines.reporting.reconstructions import Shown, reconstruct_batch
from mimkit.pipelines.stores import open_group

MAX_BYTES = 300_000
NUM_TILES, ZOOM, GAP = 6, 2, 6
WINDOW = (1100, 1300)  # pixels of the report that are shown


def main() -> None:
    """Read the arguments and write the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of the documentation.")
    parser.add_argument("demo", type=Path, help="folder of a finished demo")
    parser.add_argument("out", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    at = Layout.below(arguments.demo)
    save(Image.open(at.picture).convert("RGB"), arguments.out / "landcover.png")
    save(Image.fromarray(sheet(tiles(at))), arguments.out / "reconstruction.png")
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        print("no Chromium here, so report.png is left as it is")
    else:
        save(screenshot(browser, at.report), arguments.out / "report.png")


def tiles(at: Layout) -> tuple[Shown, ...]:
    """Return pictures of test tiles that are spread evenly, not chosen."""
    torch.manual_seed(0)
    loaded = load_model(at.pretrained / "model")
    method, group = loaded.method.eval(), open_group(at.store)
    domain = get_domain(group.meta.domain)
    normaliser = domain.normaliser(loaded.normaliser)
    rows, _ = held_out_rows(group, NUM_TILES)
    size = method.grid.image_size
    batch = next(stored_batches(group, rows, normaliser, size=size, batch_size=len(rows)))
    return reconstruct_batch(method, batch, domain, normaliser, 0).shown


def sheet(shown: tuple[Shown, ...]) -> np.ndarray:
    """Return the tiles side by side: originals above, what was seen, reconstructions below."""
    lines = [[getattr(s, name) for s in shown] for name in ("original", "visible", "pasted")]
    side = lines[0][0].shape[0] * ZOOM
    step = side + GAP
    page = np.full((3 * step - GAP, len(shown) * step - GAP, 3), 255, np.uint8)
    for y, line in enumerate(lines):
        for x, picture in enumerate(line):
            large = picture.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
            page[y * step : y * step + side, x * step : x * step + side] = large
    return page


def screenshot(browser: str, page: Path) -> Image.Image:
    """Return the top of a page as a browser shows it."""
    width, height = WINDOW
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "page.png"
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", "--hide-scrollbars", f"--user-data-dir={folder}/profile"),
                *(f"--window-size={width},{height}", f"--screenshot={target}"),
                page.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=300,
        )
        with Image.open(target) as image:
            return image.convert("RGB")


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG with a palette, reduced until it is small enough."""
    while True:
        buffer = io.BytesIO()
        few = image.quantize(160, dither=Image.Dither.NONE)
        few.save(buffer, format="PNG", optimize=True)
        if buffer.tell() < MAX_BYTES:
            break
        image = image.resize((image.width * 9 // 10, image.height * 9 // 10), Image.Resampling.BOX)
    path.write_bytes(buffer.getvalue())
    print(f"{path}: {image.width} x {image.height}, {buffer.tell() / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
