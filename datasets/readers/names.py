"""Which band a file holds, by its name: products come as one file per band."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

_BAND_FILE = re.compile(
    r"^(?:(?P<product>.+?)[_.-])?"
    r"(?P<band>(?:S[RT]_)?B\d{1,2}A?(?:_VCID_\d)?|(?:(?:sr|st|toa|bt)_)?band\d{1,2})"
    r"(?:_(?P<metres>\d\d)m)?$"
)


@dataclass(frozen=True)
class BandFile:
    """A file name taken apart.

    Attributes:
        product: what comes before the band, "" when nothing does.
        band: such as B4, B8A, SR_B4, B6_VCID_1, sr_band4.
        metres: size of its pixels as far as the name says so.
    """

    product: str
    band: str
    metres: int | None

    @property
    def order(self) -> tuple[int, str]:
        """Key that sorts B2 before B10 and B8 before B8A."""
        number = re.search(r"\d+", self.band)
        return int(number[0]) if number else 0, self.band


def band_file(path: PurePath) -> BandFile | None:
    """Return product and band of a file that holds one band, None for any other name."""
    found = _BAND_FILE.match(path.stem)
    if found is None:
        return None
    metres = found["metres"]
    return BandFile(found["product"] or "", found["band"], int(metres) if metres else None)


def name_bands(descriptions: Sequence[str | None], path: PurePath) -> tuple[str, ...]:
    """Return distinct names for the bands of one file.

    A band is called what the file calls it; a single band without a description what the file name
    says; any other "band_1", "band_2", by position.
    """
    words = [" ".join((text or "").split()) for text in descriptions]
    parts = band_file(path)
    if len(words) == 1 and not words[0] and parts is not None:
        return (parts.band,)
    return tuple(
        word if word and words.count(word) == 1 else f"band_{i}" for i, word in enumerate(words, 1)
    )


def name_files(descriptions: Sequence[str | None], paths: Sequence[PurePath]) -> tuple[str, ...]:
    """Return names for the bands of several files that hold one band each.

    Descriptions are taken when all bands have distinct ones, else the bands in the file names, else
    the file names themselves.
    """
    words = [" ".join((text or "").split()) for text in descriptions]
    tokens = [parts.band if (parts := band_file(path)) else "" for path in paths]
    for names in (words, tokens):
        if all(names) and len(set(names)) == len(names):
            return tuple(names)
    return tuple(path.stem for path in paths)
