"""Published weights become a model directory, with the normaliser they were trained with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ..core.checkpoints.model_dir import CONFIG_FILE, save_model, sha256
from ..core.checkpoints.published import FATES, Imported, TensorFate, fresh_parts, import_published
from ..core.errors import UsageError
from ..core.grid import Grid
from ..core.methods import METHODS, MethodConfig, spec
from ..domains.domain import Normaliser, get_domain
from ..domains.faces.normalise import BANDS as FACE_BANDS
from ..domains.faces.normalise import SENSOR as FACE_SENSOR
from ..domains.faces.normalise import published_faces
from ..domains.satellite.sensors import Sensor, load_sensor
from .progress import say
from .recipe import load_recipe, recipe_grid

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of red, green and blue from 0 to 1, which the published RGB weights expect."""
_SOURCE = f"Method that the weights are of: {', '.join(METHODS)}."
_FAR = 10.0  # deviations from the mean at which values are clipped, if not before


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Turn a published checkpoint into a model directory.

    Tensors are read without running code from the file. A tensor that has no place, or a parameter
    without a tensor, is an error; what became of each is shown. Checkpoints do not say what pixels
    they want: 8-bit red, green, blue with ImageNet's mean and deviation is assumed, as for the
    official weights, and everything else has to be given.
    """

    file: tyro.conf.Positional[Path]
    """Checkpoint: .safetensors, or .pth of tensors."""
    source: Annotated[str, tyro.conf.arg(name="from", metavar="METHOD", help=_SOURCE)]
    """Method that the weights are of."""
    out: Path
    """Model directory to write."""
    recipe: str | None = None
    """Recipe (name or YAML file) that the weights were made with, for methods whose configuration
    the shapes of a checkpoint do not tell."""
    image_size: int | None = None
    """Pixels per side that the model is made for; the checkpoint's own when not given."""
    num_heads: int | None = None
    """Attention heads of the encoder, where its width is not a published one."""
    decoder_heads: int | None = None
    """Attention heads of the decoder, likewise."""
    allow_partial: bool = False
    """Accept a file without decoder; a fresh one is made and never shown in reports."""
    normaliser: Path | None = None
    """normaliser.json of a store with the pixels that the weights were trained on."""
    sensor: str = "rgb"
    """Sensor of those pixels, when there is no normaliser; `face` for weights of faces."""
    bands: tuple[str, ...] | None = None
    """Its bands in the order of the weights; all when not given."""
    mean: tuple[float, ...] | None = None
    """Mean of each band in the sensor's physical units; ImageNet's for rgb and face."""
    std: tuple[float, ...] | None = None
    """Standard deviation of each band, likewise."""


def run(config: ImportConfig) -> Path:
    """Write the model directory and return it.

    Raises:
        UsageError: for an unknown method, when something has to be given that the file does not
            tell, or when `out` is taken.
        WeightsError: when the file cannot be trusted or does not fit.
    """
    if (config.out / CONFIG_FILE).exists() or config.out.is_file():
        reason = "is a file" if config.out.is_file() else "holds a model already"
        raise UsageError(f"--out {config.out}", reason, "give another folder")
    spec(config.source)  # an unknown name is found before anything is read
    # The normaliser first: a mistake in it is found before a gigabyte is read.
    normaliser = choose_normaliser(config)
    known, grid = from_recipe(config, len(normaliser.bands))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)  # what is fresh is the same in every import
        imported = import_published(
            config.file,
            config.source,
            config=known,
            grid=grid,
            image_size=config.image_size,
            num_heads=config.num_heads,
            decoder_heads=config.decoder_heads,
            allow_partial=config.allow_partial,
        )
    check_channels(config, imported, normaliser)
    show(imported.fates)
    save_model(
        config.out,
        imported.method,
        imported.config,
        normaliser=normaliser.to_dict(),
        recipe=f"# not a run: imported from {config.file.name}\n",
        data=provenance(config, imported, normaliser),
        extra={"fresh": fresh_parts(imported.fates)},
    )
    say(f"{config.out}: {imported.summary()}")
    return config.out


def from_recipe(config: ImportConfig, num_bands: int) -> tuple[MethodConfig | None, Grid | None]:
    """Return the configuration and the geometry that a recipe says; nothing without one.

    Raises:
        UsageError: for a recipe of another method, an image size that does not fit its tokens, or
            numbers that the recipe says already.
    """
    if config.recipe is None:
        return None, None
    recipe, name = load_recipe(config.recipe), config.source
    if recipe.method.name != name:
        reason = f"is one of {recipe.method.name}, and the weights are to be of {name}"
        raise UsageError(f"--recipe {config.recipe}", reason, "change --recipe or --from")
    if config.num_heads or config.decoder_heads:
        hint = "leave --num-heads and --decoder-heads out"
        raise UsageError(f"--recipe {config.recipe}", "says how many heads there are", hint)
    if config.image_size is not None:
        recipe = replace(recipe, image_size=(config.image_size,) * len(recipe.image_size))
    return recipe.method, recipe_grid(recipe, num_bands)


def choose_normaliser(config: ImportConfig) -> Normaliser:
    """Return the normaliser that was given, or the one of a sensor with mean and deviation.

    Raises:
        UsageError: when numbers are missing or do not fit together.
    """
    if config.normaliser is not None:
        if config.mean or config.std or config.bands:
            hint = "leave --bands, --mean and --std out"
            raise UsageError("--normaliser", "says which bands, means and deviations", hint)
        return read_normaliser(config.normaliser)
    if config.sensor == FACE_SENSOR:
        return face_normaliser(config.bands, config.mean, config.std)
    sensor = load_sensor(config.sensor)
    bands = config.bands or sensor.band_names
    mean, std = config.mean, config.std
    if sensor.name == "rgb" and mean is None and std is None:
        places = [sensor.band_names.index(band.name) for band in sensor.select(bands)]
        mean, std = (tuple(numbers[place] for place in places) for numbers in IMAGENET)
    if mean is None or std is None:
        missing = "--mean" if mean is None else "--std"
        hint = f"give one number for each of {', '.join(bands)}, or --normaliser"
        raise UsageError(missing, f"is not known for {sensor.name}", hint)
    check_lengths(bands, mean, std)
    return sensor_normaliser(sensor, bands, mean, std)


def check_lengths(bands: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise UsageError unless there is a mean and a deviation for every band."""
    for name, numbers in (("--mean", mean), ("--std", std)):
        if len(numbers) != len(bands):
            reason = f"has {len(numbers)} numbers for {len(bands)} bands"
            raise UsageError(name, reason, f"give one for each of {', '.join(bands)}")


def face_normaliser(
    bands: Sequence[str] | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normaliser:
    """Return the normaliser of weights that read faces; how these were cropped is not known.

    Args:
        bands: red, green and blue, if anything.
        mean: of each channel from 0 to 1; ImageNet's when neither is given.
        std: of each channel, likewise.

    Raises:
        UsageError: for other channels, or one of both numbers without the other.
    """
    if bands is not None and tuple(bands) != FACE_BANDS:
        reason = "are not the channels of faces"
        raise UsageError(f"--bands {' '.join(bands)}", reason, f"leave it out: {FACE_BANDS}")
    if mean is None and std is None:
        mean, std = IMAGENET
    if mean is None or std is None:
        missing, other = ("--mean", "--std") if mean is None else ("--std", "--mean")
        raise UsageError(missing, f"is not given, and {other} is", "give both, or neither")
    check_lengths(FACE_BANDS, mean, std)
    return published_faces(mean, std)


def sensor_normaliser(
    sensor: Sensor, bands: Sequence[str], mean: Sequence[float], std: Sequence[float]
) -> Normaliser:
    """Return the normaliser of a sensor's numbers; what is not plausible is clipped.

    Args:
        sensor: says how stored numbers become physical units.
        bands: its bands, in the order of the weights.
        mean: of each band in physical units.
        std: of each band in physical units.

    Raises:
        UsageError: for an unknown band or a deviation that is not positive.
    """
    chosen = sensor.select(bands)
    low, high = sensor.plausible
    pairs = list(zip(mean, std, strict=True))
    ends = [(max(low, m - _FAR * s), min(high, m + _FAR * s)) for m, s in pairs]
    plain = {
        "domain": "satellite",
        "sensor": sensor.name,
        "bands": list(bands),
        "scale": [band.scale for band in chosen],
        "offset": [band.offset for band in chosen],
        "units": sensor.units,
        "mean": list(mean),
        "std": list(std),
        "low": [first for first, _ in ends],
        "high": [last for _, last in ends],
        "wavelengths": [band.wavelength for band in chosen],
        "nodata": sensor.nodata,
    }
    return get_domain("satellite").normaliser(plain)


def read_normaliser(path: Path) -> Normaliser:
    """Read a store's normaliser.

    Raises:
        UsageError: when there is none.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return get_domain(plain["domain"]).normaliser(plain)
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "give the normaliser.json of a store that `mimkit curate` wrote"
        reason = f"is no normaliser ({type(error).__name__})"
        raise UsageError(f"--normaliser {path}", reason, hint) from error


def check_channels(config: ImportConfig, imported: Imported, normaliser: Normaliser) -> None:
    """Raise UsageError unless the weights read as many channels as the normaliser gives."""
    channels = imported.method.grid.channels
    if channels != len(normaliser.bands):
        raise UsageError(
            config.file,
            f"reads {channels} channels, and {normaliser.sensor} was taken with "
            f"{len(normaliser.bands)} bands ({', '.join(normaliser.bands)})",
            "name sensor, bands, mean and std of its pixels, or give --normaliser",
        )


def provenance(config: ImportConfig, imported: Imported, normaliser: Normaliser) -> dict[str, Any]:
    """Return where the weights come from, for data.json."""
    fresh = fresh_parts(imported.fates)
    return {
        "imported_from": config.file.name,
        "sha256": sha256(config.file),
        "published": spec(config.source).source,
        "domain": normaliser.domain,
        "description": get_domain(normaliser.domain).describe(normaliser),
        "tensors": imported.summary(),
        "not_trained": ", ".join(fresh) or "nothing",
    }


def show(fates: Sequence[TensorFate]) -> None:
    """Print what became of every tensor, one line for the same tensor of all blocks."""
    from rich.console import Console
    from rich.table import Table

    table = Table("tensor", "shape", "count", "fate", box=None, pad_edge=False)
    for name, shape, fate, count in grouped(fates):
        colour = {"loaded": "green", "resized": "yellow", "fresh": "red", "ignored": "dim"}[fate]
        sizes = " x ".join(map(str, shape)) or "scalar"
        table.add_row(name, sizes, str(count), f"[{colour}]{fate}[/{colour}]")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=160, highlight=False)
    console.print(table)


def grouped(fates: Sequence[TensorFate]) -> list[tuple[str, tuple[int, ...], str, int]]:
    """Return (name, shape, fate, count) with the numbers of blocks replaced by `*`.

    Sorted by fate, what needs attention last.
    """
    counts: dict[tuple[str, tuple[int, ...], str], int] = {}
    for row in fates:
        key = (re.sub(r"\.\d+(?=\.|$)", ".*", row.name), row.shape, row.fate)
        counts[key] = counts.get(key, 0) + 1
    order = sorted(counts, key=lambda key: FATES.index(key[2]))
    return [(*key, counts[key]) for key in order]
