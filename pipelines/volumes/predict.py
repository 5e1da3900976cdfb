"""`mimkit predict ct`: label maps on the grid of the scanner, in the format of the input."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from ...core.errors import UsageError, UserError
from ...core.files import write_text
from ...datasets.errors import DataError
from ...datasets.files import write_json
from ...datasets.writers.label_map import LABEL_SUFFIXES, write_label_map
from ...domains.ct.curate.records import VolumeRef
from ...domains.ct.curate.scan import Found, ScanParams, scan_sources
from ..curate.execute import open_pool
from ..progress import say, track
from .segment import (
    SlidingConfig,
    check_sliding,
    millilitres,
    open_model,
    read_volume,
    segment,
)

Format = Literal["auto", "nifti", "seg-nrrd", "dicom-seg"]
SUFFIXES: dict[str, str] = {"nifti": ".nii.gz", "seg-nrrd": ".seg.nrrd", "dicom-seg": ".dcm"}
DONE, FAILED = "done", "failed"
_ROWS, _TABLE = "rows", "predictions.csv"


@dataclass(frozen=True, kw_only=True)
class PredictCtConfig(SlidingConfig):
    """Segment CT volumes and write label maps that overlay them voxel by voxel.

    Each label map has the grid and orientation of its volume's file, with names and colours. Of
    several volumes OUT/predictions.csv says for each what was written, or why not.
    """

    volumes: tyro.conf.Positional[tuple[Path, ...]]
    """Files and folders: NIfTI, NRRD, DICOM series."""
    model: Path
    """Model directory that was fine-tuned on CT (`RUN/model` of `mimkit finetune`)."""
    out: Path
    """NAME.nii.gz, NAME.seg.nrrd or NAME.dcm for one volume; a folder for one or several."""
    format: Format = "auto"
    """Of label maps in a folder; auto: NIfTI for NIfTI, .seg.nrrd (3D Slicer) for NRRD, DICOM SEG
    for DICOM."""
    workers: int = 1
    """Volumes that are done at the same time, each by a process on the CPU."""
    scheduler: str | None = None
    """Address of a running dask scheduler whose workers do the volumes instead; they must see the
    same files."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What became of one volume.

    Args:
        id: its name.
        uri: its file or series.
        status: "done", or why not in one word.
        reason: the same in words; empty when it is done.
        files: what was written.
        seconds: time it took.
        millilitres: volume of every structure.
    """

    id: str
    uri: str
    status: str
    reason: str = ""
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    millilitres: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One volume; plain data, so that it travels to other processes.

    Args:
        ref: the volume.
        target: label map to write.
        row: file that says what became of it.
        config: settings.
    """

    ref: VolumeRef
    target: Path
    row: Path
    config: PredictCtConfig

    def __call__(self) -> None:
        """Predict and write; what goes wrong with this volume is written down, not raised."""
        try:
            made = predict_volume(self.ref, self.target, self.config)
        except (UserError, DataError) as error:
            made = Prediction(id=self.ref.id, uri=self.ref.uri, status=FAILED, reason=str(error))
        write_json(self.row, asdict(made))


def run(config: PredictCtConfig) -> list[Prediction]:
    """Predict all volumes; a broken one is reported and the others are still done.

    Raises:
        UsageError: for a model that does not segment volumes, or settings that cannot work.
        DataError: when volumes could not be predicted.
    """
    model = open_model(config.model, config.device)
    check_sliding(config, model)
    if config.workers < 1:
        raise UsageError(f"workers {config.workers}", "is below 1", "use 1 or more")
    if config.workers > 1 and model.device.type != "cpu":
        remedy = "use --device cpu, or --workers 1"
        raise UsageError(f"workers {config.workers}", "would share one GPU", remedy)
    found = scan_sources(
        config.volumes, ScanParams(pattern=None, exclude=(), masks=(), labels=False)
    )
    targets = output_paths(found.refs, config)
    if single_file(config.out):
        made = [predict_volume(found.refs[0], targets[0], config)]
        say(sentence(made[0]))
        return made
    made = predict_all(found, targets, config)
    write_text(config.out / _TABLE, table(made))
    say(f"{config.out / _TABLE}: {len(made)} volumes and files")
    failed = [row for row in made if row.status == FAILED]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(found.refs)} volumes",
            f"could not be done, the first because {failed[0].reason.rstrip('.')}",
            f"see {config.out / _TABLE}; what was written for the others is complete",
        )
    return made


def predict_all(found: Found, targets: Sequence[Path], config: PredictCtConfig) -> list[Prediction]:
    """Predict every volume, on several processes if wanted, and say what became of each file."""
    rows = [config.out / _ROWS / f"{ref.id}.json" for ref in found.refs]
    jobs = [Job(*parts, config) for parts in zip(found.refs, targets, rows, strict=True)]
    with open_pool(config.workers, config.scheduler) as pool:
        for _ in track(pool.run(jobs), "predict", len(jobs)):
            continue
    made = []
    for path in rows:
        plain = json.loads(path.read_text("utf-8"))
        made.append(Prediction(**{**plain, "files": tuple(plain["files"])}))
        say(sentence(made[-1]))
    others = [
        Prediction(id=row.id, uri=row.uri, status=row.status, reason=row.reason or "")
        for row in found.rows
    ]
    return sorted([*made, *others], key=lambda row: row.id)


def predict_volume(ref: VolumeRef, target: Path, config: PredictCtConfig) -> Prediction:
    """Segment one volume and write its label map; nothing is at `target` unless it is complete.

    Raises:
        DataError: when the volume cannot be read or is no CT, or the label map cannot be written.
    """
    began = time.monotonic()
    model = open_model(config.model, config.device)
    loaded = read_volume(model, ref)
    labels = segment(model, loaded, config, f"predict {ref.id}")
    series = ref.source.paths if ref.is_dicom else None
    files = write_label_map(target, labels, grid=loaded.opened.geometry, series=series)
    return Prediction(
        id=ref.id,
        uri=ref.uri,
        status=DONE,
        files=tuple(map(str, files)),
        seconds=round(time.monotonic() - began, 2),
        millilitres=millilitres(labels),
    )


def single_file(out: Path) -> bool:
    """Say whether `out` is the name of a label map rather than of a folder."""
    return out.name.lower().endswith(LABEL_SUFFIXES)


def output_paths(refs: Sequence[VolumeRef], config: PredictCtConfig) -> list[Path]:
    """Return the label map to write for each volume.

    Raises:
        UsageError: for one file for several volumes, a SEG of a volume that is no DICOM, a file
            instead of a folder, or a label map in the place of a volume.
    """
    out = config.out
    if single_file(out):
        if len(refs) > 1:
            reason = f"is one file for {len(refs)} volumes"
            raise UsageError(f"--out {out}", reason, "give a folder")
        targets = [out]
    elif out.is_file():
        raise UsageError(f"--out {out}", "is a file", "give a folder, or NAME.nii.gz")
    else:
        targets = [out / f"{ref.id}{suffix_for(ref, config.format)}" for ref in refs]
    inputs = {Path(path).resolve() for ref in refs for path in ref.paths}
    for ref, target in zip(refs, targets, strict=True):
        if target.resolve() in inputs:
            raise UsageError(f"--out {target}", "would replace a volume", "give another folder")
        if target.suffix == ".dcm" and not ref.is_dicom:
            reason = f"is a DICOM SEG, and {ref.uri} is no DICOM series"
            raise UsageError(f"{target}", reason, "use --format nifti or seg-nrrd")
    return targets


def suffix_for(ref: VolumeRef, wanted: Format) -> str:
    """Return the ending of a volume's label map."""
    if wanted != "auto":
        return SUFFIXES[wanted]
    if ref.is_dicom:
        return SUFFIXES["dicom-seg"]
    name = ref.paths[0].lower()
    return SUFFIXES["seg-nrrd" if name.endswith((".nrrd", ".nhdr")) else "nifti"]


def table(rows: Sequence[Prediction]) -> str:
    """Return what became of every file as CSV, with a column for each structure in ml."""
    names = list(dict.fromkeys(name for row in rows for name in row.millilitres))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["id", "uri", "status", "reason", "files", "seconds", *(f"{n} ml" for n in names)]
    )
    for row in rows:
        sizes = [f"{row.millilitres[n]:.3f}" if n in row.millilitres else "" for n in names]
        files = " ".join(row.files)
        writer.writerow([row.id, row.uri, row.status, row.reason, files, row.seconds, *sizes])
    return text.getvalue()


def sentence(row: Prediction) -> str:
    """Say what became of a volume."""
    if row.status != DONE:
        return f"left out: {row.reason}"
    largest = sorted(row.millilitres.items(), key=lambda item: -item[1])[:5]
    sizes = ", ".join(f"{name} {size:.1f} ml" for name, size in largest)
    return f"{row.files[0]}: {sizes}; {row.seconds:.0f} s"
