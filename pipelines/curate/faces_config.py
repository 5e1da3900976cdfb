"""What `mimkit curate faces` can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from ...core.errors import UsageError
from ...domains.faces.crop import VERSION, CropConfig
from ...domains.faces.curate.look import DRAWN, NO_REGIONS, Limits, Regions
from ...domains.faces.curate.records import Sampling
from ...domains.faces.curate.scan import Identity, Labels, ScanParams
from ...domains.faces.detect import Which
from ...domains.faces.normalise import Colour, Statistics
from ...domains.faces.parsing import KINDS, Kind, MapSize
from ...domains.faces.prepare import Preparation, jpeg_quality
from .base import CurateBase


@dataclass(frozen=True, kw_only=True)
class CurateFacesConfig(CurateBase):
    """Turn photographs and videos into a store of faces: scan, look, divide, pack.

    Every file that was looked at becomes a row of OUT/manifest.parquet, kept or rejected with its
    reason; OUT/card.json sums up. A killed run continues when the same command is given again.
    `--remove LIST --out STORE` erases people from a store that is there.
    """

    sources: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders and files: JPEG, PNG, WebP, GIF, PGM, BMP, TIFF; MP4, AVI, MOV, MKV, WebM."""
    remove: Path | None = None
    """Text file with people, videos or files, one a line, to erase from the store of --out: the
    name of an identity, its pseudonym, a video, an id or a path as the manifest has it. Sources are
    not needed then, and later curations into the same folder leave them out."""

    layout: str | None = None
    """Layout of a known collection, such as faceforensics or celeb-df, or "csv" for a table
    index.csv in the source, or "folder"; it says label, identity, video and part of each file."""
    table: Path | None = None
    """CSV with facts of files: file, and any of label, identity, video, split, consent, licence,
    source, method, compression; other columns are kept. It comes before layout and rules."""
    identities: Identity = "none"
    """Name of the person where no table says it: the folder, or the file's name up to the first
    "_" or "-". Manifests hold pseudonyms of names."""
    labels: Labels = "none"
    """Class where no table says it: the first folder below the source, or the source's own name."""
    consent: str | None = None
    """Basis on which the pictures may be used, for the manifest: "signed form", "public domain"."""

    num_frames: int = 32
    """Frames of a video, evenly spread (2 for anti-spoofing, 32 or 128 for deepfakes)."""
    seconds: float | None = None
    """Seconds from frame to frame, instead of a number."""
    frame_folders: bool = False
    """Take a folder of pictures for the frames of one video."""
    animated: bool = False
    """Take an animation for a video; otherwise its first frame is a photograph."""

    detector: str = "mtcnn"
    """mtcnn (needs `pip install 'mimkit[faces]'`), whole (every picture is a face already), or a
    CSV or JSON file with boxes and points of another detector."""
    max_side: int = 1024
    """Pictures with a longer side are made smaller before they are searched."""
    faces: Which = "largest"
    """Of several faces: the largest, the most central, all, or none of the picture (reject)."""
    crop: CropConfig = field(default_factory=CropConfig)
    """How a face is cut; recorded in the manifest, the store and every model."""
    colour: Colour = "rgb"
    """rgb, or grey values in all three channels: one mode for all sources."""
    equalise: str | None = None
    """jpeg:Q codes every crop as JPEG of quality Q: one coding for all sources."""
    statistics: Statistics = "store"
    """Mean and deviation of the normaliser: of this store's training faces, or ImageNet's."""

    regions: str = DRAWN
    """Maps of regions: landmarks draws them around five points, none leaves them out, and
    lapa:FOLDER, celebamask:FOLDER or bisenet:FOLDER reads a parser's maps, named like the
    pictures."""
    region_size: MapSize = "reject"
    """A map of another size than its picture: reject the picture, or resize the map (nearest)."""

    min_score: float = 0.9
    """Least score of the detector (0.5 is usual for SCRFD)."""
    min_face: int = 40
    """Least side of a face in pixels of its picture; 80 and more for training at 224."""
    min_blur: float = 30.0
    """Least variance of the Laplacian at 224 pixels; 0 turns it off."""
    brightness: tuple[float, float] = (40.0, 220.0)
    """Least and largest mean luminance, 0 to 255."""
    max_saturated: float = 0.25
    """Largest share of pixels that are black or burnt out."""
    max_yaw: float | None = None
    """Largest turn to the side, in distances of the eyes (0.6 for recognition); left out: all."""
    max_overlap: float = 0.2
    """Largest share of the crop that other faces cover."""
    min_visible: float = 0.15
    """Least share of the crop that a parser's map calls skin or a feature."""
    max_per_identity: int | None = 300
    """Faces of a person that are kept."""

    split: Literal["identity", "table"] | None = None
    """Parts by people and videos, or as a table or layout says; left out: the latter if it does."""

    def __post_init__(self) -> None:
        """Check that the settings make sense.

        Raises:
            UsageError: naming field, value and fix.
        """
        super().__post_init__()
        jpeg_quality(self.equalise)
        self.region_source()

    def checks(self) -> list[tuple[str, Any, bool, str]]:
        """Return (field, value, whether it is fine, remedy) of every number with limits."""
        low, high = self.brightness
        seconds = self.seconds is None or 0 < self.seconds < math.inf
        most = self.max_per_identity
        needed = [check for check in super().checks() if check[0] != "sources"]
        return [
            *needed,
            (
                "sources",
                self.sources,
                bool(self.sources) or self.remove is not None,
                "name at least one file or folder, or use --remove",
            ),
            ("num_frames", self.num_frames, self.num_frames >= 1, "use 1 or more"),
            ("seconds", self.seconds, seconds, "use seconds above 0"),
            ("max_side", self.max_side, self.max_side >= 64, "use 64 or more"),
            ("min_face", self.min_face, self.min_face >= 8, "use 8 pixels or more"),
            ("min_blur", self.min_blur, 0 <= self.min_blur < math.inf, "use 0 or more"),
            ("brightness", self.brightness, 0 <= low < high <= 255, "use two of 0 to 255"),
            ("max_yaw", self.max_yaw, self.max_yaw is None or self.max_yaw > 0, "use above 0"),
            ("max_per_identity", most, most is None or most >= 1, "use 1 or more"),
            ("crop.version", self.crop.version, self.crop.version == VERSION, f"use {VERSION}"),
            self.share("min_score"),
            self.share("max_saturated"),
            self.share("max_overlap"),
            self.share("min_visible"),
        ]

    def region_source(self) -> Regions:
        """Return where maps of regions come from.

        Raises:
            UsageError: when it cannot be understood, or the folder does not exist.
        """
        kind, _, folder = self.regions.partition(":")
        if self.regions in (DRAWN, NO_REGIONS):
            return Regions(kind=DRAWN if self.regions == DRAWN else NO_REGIONS)
        kinds: dict[str, Kind] = {name: name for name in KINDS}
        known = kinds.get(kind)
        if known is None or not folder:
            use = f"use {DRAWN}, {NO_REGIONS}, or {', '.join(f'{name}:FOLDER' for name in KINDS)}"
            raise UsageError("regions", f"is {self.regions!r}", use)
        if not Path(folder).is_dir():
            raise UsageError("regions", f"{folder} is no folder", "name the folder of the maps")
        path = str(Path(folder).resolve())
        return Regions(kind=known, folder=path, other_size=self.region_size)

    def preparation(self) -> Preparation:
        """Return how a face becomes pixels."""
        return Preparation(crop=self.crop, colour=self.colour, equalise=self.equalise)

    def sampling(self) -> Sampling:
        """Return which frames are taken."""
        return Sampling(num=self.num_frames, seconds=self.seconds, animated=self.animated)

    def limits(self) -> Limits:
        """Return what a face must be."""
        return Limits(
            min_score=self.min_score,
            min_face=float(self.min_face),
            min_blur=self.min_blur,
            brightness=self.brightness,
            max_saturated=self.max_saturated,
            max_yaw=self.max_yaw,
            max_overlap=self.max_overlap,
            min_visible=self.min_visible,
        )

    def scan(self) -> ScanParams:
        """Return what is looked for."""
        return ScanParams(
            pattern=self.pattern,
            exclude=self.exclude,
            layout=self.layout,
            table=self.table,
            identity=self.identities,
            labels=self.labels,
            frame_folders=self.frame_folders,
            consent=self.consent,
            maps=self.region_source().folder,
        )
