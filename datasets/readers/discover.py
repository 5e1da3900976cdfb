"""Find scenes in folders: single files, arrays, and products that come as one file per band."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import DataError
from .array_spec import ArraySpec
from .arrays import ARRAY_SUFFIXES, num_times
from .folders import find_files
from .names import BandFile, band_file

IMAGE_SUFFIXES = (".tif", ".tiff", ".jp2", ".jpg", ".jpeg", ".png", ".img")
_RESOLUTION_FOLDER = re.compile(r"R\d\dm")  # Sentinel-2 Level 2A keeps each resolution apart
_WITH_PAN = re.compile(r"L[CEO]0?[789]")
_PAN = "B8"
_COMPANION = re.compile(  # quality, angles, atmosphere, classes, browse pictures
    r"(S[RT]_)?(\w*QA(_\w+)?|[SV][AZ]A|SCL|TCI|AOT|WVP|PVI|ATRAN|CDIST|DRAD|EMIS|EMSD|TRAD|URAD"
    r"|ATMOS_OPACITY|VER|thumb_\w+)(_\d\dm)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SceneSource:
    """A scene that was found; plain data, so that it travels to other processes.

    Attributes:
        id: name, unique within the folder that was searched, stable between runs: the path below it
            without the suffix; "-t3" after it is the fourth date of an array.
        paths: its files; several hold one band each, in the order of the bands.
        time: which date of an array of several, counted from 0; None when it has no such axis.
    """

    id: str
    paths: tuple[Path, ...]
    time: int | None = None

    @property
    def uris(self) -> tuple[str, ...]:
        """What `open_scene` takes: the paths, with "#t=3" after an array of several dates."""
        fragment = "" if self.time is None else f"#t={self.time}"
        return tuple(f"{path}{fragment}" for path in self.paths)


def discover_scenes(
    root: str | Path,
    *patterns: str,
    exclude: Sequence[str] = (),
    spec: ArraySpec | str | Path | None = None,
) -> list[SceneSource]:
    """Find all scenes below a folder.

    Bands of one product become one scene: Landsat (`NAME_B1.TIF`, without the panchromatic band,
    whose grid is another), BigEarthNet, Sentinel-2 in SAFE folders (of each band the finest
    resolution), or B02.tif, B03.tif in a folder of their own. The quality, angle and browse images
    of such a product are parts of it and no scenes. Everything else with a known suffix is one
    scene a file, broken or not: `open_scene` says what is wrong with it. Hidden files and folders
    are skipped.

    Args:
        root: folder, or one file.
        patterns: glob patterns of paths below the folder, one of which a file must match;
            "**/" also matches no folder at all. None takes all.
        exclude: glob patterns of paths below the folder that are left out.
        spec: describes arrays without a sidecar, see `open_scene`.

    Returns:
        Scenes sorted by id, in the same order on every machine.

    Raises:
        DataError: when the folder does not exist or one below it cannot be read.
    """
    root = Path(root)
    files = find_files(root, _is_scene_file, patterns, exclude)
    if not root.is_dir():
        return _named(_expanded([(root,)], spec), root.parent)
    return _named(_expanded(_grouped(files), spec), root)


def _is_scene_file(name: str) -> bool:
    return PurePath(name).suffix.lower() in (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)


def _grouped(files: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Put the bands of products together."""
    groups: dict[tuple[Path, str], dict[Path, BandFile]] = defaultdict(dict)
    for path in files:
        parts = band_file(path)
        if parts is not None and path.suffix.lower() in IMAGE_SUFFIXES:
            groups[_product_folder(path), parts.product][path] = parts
    products: dict[tuple[Path, str], tuple[Path, ...]] = {}
    for key, members in groups.items():
        chosen = _bands_of(key[1], members)
        if len(chosen) > 1 and _holds_one_band(chosen[0]):
            products[key] = chosen
    taken = {path for key in products for path in groups[key]}
    alone = [path for path in files if path not in taken and not _belongs(path, products)]
    return [*products.values(), *((path,) for path in alone)]


def _product_folder(path: Path) -> Path:
    folder = path.parent
    return folder.parent if _RESOLUTION_FOLDER.fullmatch(folder.name) else folder


def _bands_of(product: str, members: dict[Path, BandFile]) -> tuple[Path, ...]:
    """Return one file per band, the finest, sorted by band."""
    best: dict[str, Path] = {}
    for path in sorted(members, key=lambda path: (members[path].metres or 0, str(path))):
        best.setdefault(members[path].band, path)
    if _WITH_PAN.match(product) and len(best) > 2:
        best.pop(_PAN, None)
    return tuple(sorted(best.values(), key=lambda path: (members[path].order, str(path))))


def _holds_one_band(path: Path) -> bool:
    """Look into a file; one that cannot be opened counts as a band, and fails where it is used."""
    from .gdal import open_files

    try:
        with open_files([str(path)]) as scene:
            return len(scene.bands) == 1
    except DataError:
        return True


def _belongs(path: Path, products: dict[tuple[Path, str], tuple[Path, ...]]) -> bool:
    """Return whether an image is a part of a product without being one of its bands."""
    words = path.stem.split("_")
    cuts = (("_".join(words[:end]), "_".join(words[end:])) for end in range(1, len(words)))
    folder = _product_folder(path)
    return any((folder, a) in products and _COMPANION.fullmatch(b) is not None for a, b in cuts)


def _expanded(
    groups: Sequence[tuple[Path, ...]], spec: ArraySpec | str | Path | None
) -> Iterator[tuple[tuple[Path, ...], int | None, int]]:
    """Yield files, date and number of dates of each scene."""
    for paths in groups:
        is_array = paths[0].suffix.lower() in ARRAY_SUFFIXES
        count = num_times(paths[0], spec) if is_array else None
        for time in range(count) if count is not None else (None,):
            yield paths, time, count or 0


def _named(
    scenes: Iterator[tuple[tuple[Path, ...], int | None, int]], root: Path
) -> list[SceneSource]:
    """Give each scene the shortest name that no other has."""
    by_name: dict[str, list[tuple[tuple[Path, ...], int | None]]] = defaultdict(list)
    for paths, time, count in scenes:
        digits = len(str(max(count - 1, 0)))
        date = "" if time is None else f"-t{time:0{digits}d}"
        by_name[_name(paths, root) + date].append((paths, time))
    found = []
    for name, same in by_name.items():
        for paths, time in same:
            # a.tif and a.png are two scenes: the suffix tells them apart.
            kind = f"-{paths[0].suffix[1:]}" if len(same) > 1 else ""
            found.append(SceneSource(name + kind, paths, time))
    return sorted(found, key=lambda scene: scene.id)


def _name(paths: tuple[Path, ...], root: Path) -> str:
    if len(paths) == 1:
        return paths[0].relative_to(root).with_suffix("").as_posix()
    parts = band_file(paths[0])
    product = parts.product if parts else ""
    folder = _product_folder(paths[0]).relative_to(root)
    if folder.parts and product in ("", folder.name):
        return folder.as_posix()
    return (folder / (product or root.resolve().name)).as_posix()
