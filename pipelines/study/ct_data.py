"""The stores of the CT study: all CT but the tested patients, and the drawn cases of the others.

Seed s tests patients 2s and 2s+1 of the sorted ten, so that five seeds test everybody once. Tested
patients are in neither store: no voxel of theirs is seen before they are scored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.files import write_text
from ...datasets.errors import DataError
from ..curate.ct import run
from ..curate.ct_config import CurateCtConfig
from ..stores import MANIFEST, open_group

SARCOMA, ABDOMEN = "sarcoma", "totalseg_example"
OTHERS = ("pulmonary_artery", "chest_small", ABDOMEN)
"""Further folders for pre-training, none of whose labels is read."""

IMAGE, MASK = "CT_image.nii.gz", "CT_mask.nii.gz"
SPACING = (4.0, 3.0, 3.0)
CROP, STRIDE = (24, 48, 48), (8, 16, 16)
CLASS = "1=tumour"
_LABEL_FILES = ("*_mask*", "*seg_total*", "*pulmonary_artery.nii.gz", "*lm-64*", "*wholeLung*")
_TESTED = 2


@dataclass(frozen=True)
class Division:
    """Who does what with one seed.

    Args:
        tested: patients that are scored, and that nothing else sees.
        chosen_on: patients that choose the learning rate before all others but the tested teach.
        teaching: patients with labels that teach while the rate is chosen.
    """

    tested: tuple[str, ...]
    chosen_on: tuple[str, ...]
    teaching: tuple[str, ...]


def patients(samples: Path) -> tuple[str, ...]:
    """Return the names of the sarcoma patients, sorted.

    Raises:
        DataError: when the samples are not there, or hold too few patients.
    """
    folder = samples / "ct" / SARCOMA
    found = tuple(sorted(path.parent.name for path in folder.glob(f"*/{IMAGE}")))
    if len(found) < 3 * _TESTED:
        reason = f"holds {len(found)} patients, and the study needs {3 * _TESTED}"
        raise DataError(folder, reason, "name the folder of the samples with --samples")
    return found


def divide(names: Sequence[str], seed: int) -> Division:
    """Return the division of a seed; the two patients after the tested ones choose."""

    def some(first: int) -> tuple[str, ...]:
        return tuple(names[(first + place) % len(names)] for place in range(_TESTED))

    tested, chosen_on = some(_TESTED * seed), some(_TESTED * (seed + 1))
    rest = tuple(name for name in names if name not in (*tested, *chosen_on))
    return Division(tested, chosen_on, rest)


def unlabelled(seed: int) -> str:
    """Return the name of the store that a seed is pre-trained on."""
    return f"ct-unlabelled-{seed}"


def drawn(seed: int) -> str:
    """Return the name of the store that a seed is fine-tuned on."""
    return f"ct-drawn-{seed}"


def patient_table(seed: int) -> str:
    """Return the name of the table that says who is in which part."""
    return f"ct-patients-{seed}.csv"


def make_stores(samples: Path, work: Path, seed: int) -> None:
    """Make both stores of a seed where they are not there, and check who is in them.

    Raises:
        DataError: when samples are missing, or a tested patient is in a store.
    """
    division, folder = divide(patients(samples), seed), samples / "ct"
    table = work / patient_table(seed)
    write_text(table, as_table(division))
    left_out = tuple(f"{name}/*" for name in division.tested)
    if not (work / unlabelled(seed) / MANIFEST).exists():
        sources = tuple(folder / name for name in (SARCOMA, *OTHERS))
        _curate(sources, work / unlabelled(seed), table, (*left_out, *_LABEL_FILES), drawn=False)
    if not (work / drawn(seed) / MANIFEST).exists():
        _curate((folder / SARCOMA,), work / drawn(seed), table, left_out, drawn=True)
    for name in (unlabelled(seed), drawn(seed)):
        check_unseen(work / name, division.tested)


def as_table(division: Division) -> str:
    """Return who is in which part as CSV for `mimkit curate ct --patients`."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["file", "patient", "split"])
    parts = {"train": division.teaching, "val": division.chosen_on, "test": division.tested}
    for part, names in parts.items():
        table.writerows([f"{name}/{IMAGE}", name, part] for name in names)
    return stream.getvalue()


def check_unseen(store: Path, tested: Sequence[str]) -> None:
    """Raise DataError when crops of a tested patient are in a store."""
    groups = set(open_group(store).column("group"))
    found = sorted(groups & set(tested))
    if found:
        remedy = "remove the folder and start the study again"
        raise DataError(store, f"holds crops of {found[0]}, who is tested", remedy)


def _curate(
    sources: Sequence[Path], out: Path, table: Path, exclude: Sequence[str], *, drawn: bool
) -> None:
    run(
        CurateCtConfig(
            sources=tuple(sources),
            out=out,
            exclude=tuple(exclude),
            patients=table,
            size=CROP,
            stride=STRIDE,
            spacing=SPACING,
            labels="auto" if drawn else "none",
            mask_classes=(CLASS,) if drawn else (),
            near_duplicates="keep",
            workers=0,
            licence="see the licences of the collections",
        )
    )
