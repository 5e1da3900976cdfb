"""Versions, compilers, formats and ways to talk between processes."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from .finding import Finding

_REINSTALL = "Run `pip install -c constraints.txt .` in the checkout, or `make install`."


def software() -> list[Finding]:
    """Look at everything that has to be installed."""
    found = [python(), *packages()]
    if any(finding.fatal for finding in found):
        return found  # what is tried below would fail for the same reason
    return [*found, deepspeed(), compiler(), *formats(), communication()]


def python() -> Finding:
    """Look at the interpreter."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding("Python", f"{version} ({sys.executable})", essential=True)
    remedy = "Use Python 3.11 or 3.12, the two versions that are tested."
    return Finding("Python", version, "missing", remedy, essential=True)


def packages() -> list[Finding]:
    """Compare what mimkit needs with what is installed; nothing is imported for it."""
    needed = requirements()
    wrong = [text for text in map(_problem, needed) if text]
    state = "missing" if wrong else "ok"
    found = ", ".join(wrong) or f"all {len(needed)} as needed"
    versions = [f"{name} {_version(name) or 'missing'}" for name in ("mimkit", "torch", "timm")]
    return [
        Finding("versions", ", ".join(versions), essential=True),
        Finding("packages", found, state, _REINSTALL if wrong else "", essential=True),
    ]


def requirements() -> list[str]:
    """Return what the installed mimkit needs here, extras left out, such as "torch>=2.6"."""
    from packaging.requirements import Requirement

    stated = [Requirement(text) for text in metadata.requires("mimkit") or ()]
    here = [r for r in stated if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [f"{requirement.name}{requirement.specifier}" for requirement in here]


def _problem(needed: str) -> str | None:
    """Return what is wrong with an installed package, None when it is as needed."""
    from packaging.requirements import Requirement

    requirement = Requirement(needed)
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}, not {requirement.specifier}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def deepspeed() -> Finding:
    """Look at what training on several GPUs needs; its kernels are compiled on first use."""
    version = _version("deepspeed")
    cuda = shutil.which("nvcc")
    kernels = f"CUDA compiler {cuda}" if cuda else "no CUDA compiler, so none of its own kernels"
    return Finding("DeepSpeed", f"{version}, {kernels}")


def compiler() -> Finding:
    """Look for the C++ compiler that `--efficiency.compile` uses."""
    for name in ("g++", "clang++", "c++"):
        path = shutil.which(name)
        if path is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        if said.returncode == 0 and said.stdout:
            return Finding("C++ compiler", said.stdout.splitlines()[0])
    remedy = "Install g++ if you want `--efficiency.compile`; everything else works without it."
    return Finding("C++ compiler", "none", "missing", remedy)


def formats() -> list[Finding]:
    """Write and read a tiny store and a tiny map, as curation and prediction do."""
    import rasterio

    gdal = f"rasterio {rasterio.__version__} with GDAL {rasterio.__gdal_version__}"
    return [
        tried("stores", "zarr shards, written and read", _store_round_trip),
        tried("maps", f"cloud-optimised GeoTIFF, {gdal}", _map_round_trip),
        jpeg2000(),
    ]


def tried(topic: str, found: str, attempt: Callable[[], None]) -> Finding:
    """Report `found` when an attempt works, and otherwise what it said."""
    try:
        attempt()
    except Exception as error:  # whatever goes wrong is what the reader wants to know
        said = " ".join(str(error).split()) or type(error).__name__
        return Finding(topic, said, "missing", _REINSTALL, essential=True)
    return Finding(topic, found, essential=True)


def _store_round_trip() -> None:
    import numpy as np

    from ...datasets.samples import Sample
    from ...datasets.store import StoreMeta, StoreWriter

    meta = StoreMeta(
        domain="doctor",
        sensor="none",
        bands=("grey",),
        size=(32, 32),
        dtype="uint16",
        scale=(1.0,),
        offset=(0.0,),
        num_samples=1,
        shard=1,
    )
    pixels = np.arange(32 * 32, dtype=np.uint16).reshape(1, 32, 32)
    with tempfile.TemporaryDirectory(prefix="mimkit-doctor-") as folder:
        writer = StoreWriter(Path(folder) / "store", meta)
        writer.write_shard(0, [Sample(pixels)])
        read = writer.finalise().read(np.array([0])).pixels[0]
    if not np.array_equal(read, pixels):
        raise OSError("a store gives back other numbers than were written")


def _map_round_trip() -> None:
    import numpy as np
    import rasterio

    from ...datasets.geometry import Geometry
    from ..geotiff import MapSpec, writing_map

    values = np.arange(64 * 64, dtype=np.uint8).reshape(1, 64, 64)
    geometry = Geometry("EPSG:32633", (10.0, 0.0, 5e5, 0.0, -10.0, 5e6), 64, 64)
    with tempfile.TemporaryDirectory(prefix="mimkit-doctor-") as folder:
        path = Path(folder) / "map.tif"
        with writing_map(path, MapSpec(geometry)) as writer:
            writer.write(0, 0, values)
        with rasterio.open(path) as dataset:
            read, crs = dataset.read(), dataset.crs
    if not np.array_equal(read, values) or crs is None:
        raise OSError("a map gives back other numbers than were written")


def jpeg2000() -> Finding:
    """Look for the driver of Sentinel-2's own files."""
    from rasterio.env import Env

    with Env() as env:
        if "JP2OpenJPEG" in env.drivers():
            return Finding("JPEG 2000", "GDAL reads it")
    remedy = "Convert Sentinel-2 .jp2 files to GeoTIFF, or install rasterio's own wheel."
    return Finding("JPEG 2000", "this GDAL does not read it", "missing", remedy)


def communication() -> Finding:
    """Look at how processes on several GPUs or machines would talk."""
    from torch import distributed

    if not distributed.is_available():
        remedy = "Install a torch built with distributed support to train in several processes."
        return Finding("between processes", "none", "missing", remedy)
    there = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
    names = [name for name, here in there.items() if here]
    return Finding("between processes", ", ".join(names) or "mpi only")
