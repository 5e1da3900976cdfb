"""Maps of token vectors: an encoder over scenes of any size, reduced to components if wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

from ..core.batch import Batch
from ..core.encoders.contract import Encoder
from ..core.errors import UsageError, UserError
from ..core.heads.pool import Pooling, token_features
from ..datasets.errors import DataError
from ..datasets.geometry import Geometry
from ..datasets.readers.raster import SceneSource
from ..domains.domain import Domain, Normaliser
from .geotiff import MapSpec, writing_map
from .progress import track
from .scenes import ModelScene, WindowConfig, check_windows, open_for_model
from .tiling import Tiling

_SAMPLE_WINDOWS = 256  # windows of all scenes together that tell the components
_SAMPLE_TOKENS = 64  # tokens of each of them
_STEPS = 254  # steps of an 8-bit map between the ends of its range
_ENDS = (0.01, 0.99)  # shares of the sampled tokens at the ends of the range


@dataclass(frozen=True)
class Projection:
    """From a token's vector to the bands of a map.

    Args:
        mean: taken off first.
        basis: columns are the components; None keeps all dimensions.
        low: value of each band that becomes 0 of 8 bits.
        high: value of each band that becomes 254.
        explained: share of the variance that the components hold.
    """

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d k"] | None
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]
    explained: float = 1.0

    @property
    def step(self) -> Float[np.ndarray, " k"]:
        """Value of one step of 8 bits in each band."""
        return (self.high - self.low) / np.float32(_STEPS)

    def quantised(self, values: Float[np.ndarray, "k h w"]) -> UInt8[np.ndarray, "k h w"]:
        """Return projected values in steps of 8 bits; those beyond the ends become the ends."""
        steps = (values - self.low[:, None, None]) / self.step[:, None, None]
        return np.rint(steps).clip(0, _STEPS).astype(np.uint8)


def project(
    tokens: Float[Tensor, "*b d"], mean: Float[Tensor, " d"], basis: Float[Tensor, "d k"] | None
) -> Float[Tensor, "*b k"]:
    """Return the components of tokens, on their own device; all dimensions without a basis."""
    if basis is None:
        return tokens
    return (tokens - mean.to(tokens.device)) @ basis.to(tokens.device)


def fit_projection(tokens: Float[Tensor, "n d"], components: int | None) -> Projection:
    """Return the principal components of tokens and the range of each.

    The sign of a component is such that its largest entry is positive, so that equal tokens give
    equal maps.

    Args:
        tokens: a sample.
        components: how many; None keeps all dimensions as they are.

    Raises:
        UsageError: for more components than the tokens have.
    """
    most = min(tokens.shape[1], tokens.shape[0] - 1)
    if components is not None and not 1 <= components <= most:
        reason = f"cannot be made of {tokens.shape[0]} tokens with {tokens.shape[1]} dimensions"
        raise UsageError(f"--components {components}", reason, f"use 1 to {max(most, 1)}")
    mean, basis, explained = tokens.mean(dim=0), None, 1.0
    if components is not None:
        centred = (tokens - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        vectors = vectors.flip(1)[:, :components]
        largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
        basis = (vectors * largest.sign()).float()
        explained = float(values[-components:].sum() / values.sum().clamp_min(1e-30))
    ends = np.quantile(project(tokens, mean, basis).numpy(), _ENDS, axis=0).astype(np.float32)
    high = np.maximum(ends[1], ends[0] + np.float32(1e-6))
    return Projection(mean, basis, ends[0], high, explained)


@dataclass(frozen=True, kw_only=True)
class TokenMapper:
    """Makes maps of scenes whose pixels are the encoder's tokens.

    Args:
        encoder: in evaluation mode.
        domain: of the model.
        normaliser: of the model.
        pooling: which taps are read and how much of a token must be valid.
        windows: how scenes are walked.
        trained_size: pixels per axis that the model was trained on.
        dtype: number type of the maps.
        tags: text stored with every map.
    """

    encoder: Encoder
    domain: Domain
    normaliser: Normaliser
    pooling: Pooling
    windows: WindowConfig
    trained_size: tuple[int, ...]
    dtype: Literal["float32", "uint8"] = "float32"
    tags: Mapping[str, str]

    @torch.inference_mode()
    def embed(
        self, pixels: Shaped[np.ndarray, "b c h w"], valid: Bool[np.ndarray, "b h w"]
    ) -> Float[Tensor, "b n d"]:
        """Return the vectors of the tokens of windows, from stored numbers."""
        ids = torch.arange(len(pixels))
        batch = Batch(self.normaliser(pixels, valid), torch.from_numpy(valid), ids)
        device = next(self.encoder.parameters()).device
        return token_features(self.encoder, batch.to(device), self.pooling).float()

    def tiling(self, geometry: Geometry) -> Tiling:
        """Return the windows over a scene in tokens; the last ones reach over its edges."""
        high, wide = self.encoder.grid.patch
        window, overlap = check_windows(self.windows, (high, wide), self.trained_size)
        side = max(high, wide)
        return Tiling(
            -(-geometry.height // high),
            -(-geometry.width // wide),
            window // side,
            min(round(overlap / side), window // side - 1),
            (high, wide),
            self.pooling.min_valid,
        )

    def sample(self, scenes: Sequence[SceneSource]) -> Float[Tensor, "n d"]:
        """Return tokens with data from windows spread evenly over all scenes that can be read.

        Raises:
            DataError: when there are none.
        """
        found: list[Tensor] = []
        share = max(_SAMPLE_WINDOWS // len(scenes), 1)
        for source in track(scenes, "look for components"):
            # A scene that cannot be read is reported when its map is due.
            with suppress(UserError, DataError), self._open(source, quiet=True) as scene:
                found += list(self._scene_sample(scene, share))
        if not found:
            raise DataError(
                "the scenes" if len(scenes) > 1 else scenes[0].uris[0],
                "gave no token with data, so there is nothing to embed",
                "check their bands and nodata values",
            )
        return torch.cat(found)

    def write(self, source: SceneSource, target: Path, projection: Projection | None) -> str:
        """Write the map of one scene; nothing is at `target` unless it is complete.

        Args:
            source: what `open_scene` takes.
            target: GeoTIFF to write.
            projection: of the tokens; needed for 8 bits.

        Returns:
            What was written, in words.

        Raises:
            UsageError: when the scene lacks bands of the model.
            DataError: when it cannot be read or holds no token with data.
        """
        with self._open(source) as scene:
            tiling = self.tiling(scene.scene.geometry)
            spec = self._spec(scene, tiling, projection)
            num_known = self._fill(scene, tiling, target, spec, projection)
        share = num_known / (tiling.height * tiling.width)
        return (
            f"{len(spec.names)} bands of {tiling.height} x {tiling.width} tokens, {share:.1%} of "
            f"them with data"
        )

    def _open(self, source: SceneSource, *, quiet: bool = False):
        return open_for_model(source, self.domain, self.normaliser, quiet=quiet)

    def _scene_sample(self, scene: ModelScene, count: int) -> Iterator[Float[Tensor, "n d"]]:
        tiling = self.tiling(scene.scene.geometry)
        high, wide = tiling.cell
        places = [(row * high, col * wide) for row in tiling.rows for col in tiling.cols]
        chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
        height, width = tiling.window * high, tiling.window * wide
        for row, col in (places[int(number)] for number in chosen):
            pixels, valid = scene.read(row, col, height, width)
            known = tiling.cells_with_data(valid).ravel()
            if known.any():
                tokens = self.embed(pixels[None], valid[None])[0].cpu()[torch.from_numpy(known)]
                yield tokens[:: -(-len(tokens) // _SAMPLE_TOKENS)].clone()

    def _spec(self, scene: ModelScene, tiling: Tiling, projection: Projection | None) -> MapSpec:
        tags = {**self.tags, "SOURCE": scene.scene.uri}
        if projection is not None and projection.basis is not None:
            names = [f"component {i + 1}" for i in range(projection.basis.shape[1])]
            tags["EXPLAINED_VARIANCE"] = f"{projection.explained:.4f}"
        else:
            names = [
                f"block {tap} dim {i}" if tap >= 0 else f"dim {i}"
                for tap in self.pooling.taps
                for i in range(self.encoder.embed_dim)
            ]
        eight = projection if self.dtype == "uint8" else None
        return MapSpec(
            token_geometry(scene.scene.geometry, tiling),
            names,
            dtype=self.dtype,
            scale=(1.0,) if eight is None else eight.step.tolist(),
            offset=(0.0,) if eight is None else eight.low.tolist(),
            tags=tags,
        )

    def _fill(
        self,
        scene: ModelScene,
        tiling: Tiling,
        target: Path,
        spec: MapSpec,
        projection: Projection | None,
    ) -> int:
        """Write a map and return how many tokens hold data."""

        def score(
            pixels: Shaped[np.ndarray, "b c h w"], valid: Bool[np.ndarray, "b h w"]
        ) -> Float[np.ndarray, "b k p q"]:
            # Blending is linear, so that components of blends are blends of components.
            tokens = self.embed(pixels, valid)
            if projection is not None:
                tokens = project(tokens, projection.mean, projection.basis)
            shape = (tiling.window, tiling.window)
            return tokens.transpose(1, 2).unflatten(2, shape).cpu().numpy()

        num_known = 0
        with writing_map(target, spec) as out:
            for line in scene.lines(tiling, score, len(spec.names), self.windows, "embed"):
                num_known += int(line.valid.sum())
                values = line.scores
                if projection is not None and self.dtype == "uint8":
                    values = projection.quantised(values)
                known = np.where(line.valid, values, np.array(spec.nodata, spec.dtype))
                out.write(line.row, line.col, known)
            if not num_known:
                raise DataError(
                    scene.scene.uri,
                    "holds no token with data, so there is nothing to embed",
                    "check its nodata value, or leave it out",
                )
        return num_known


def token_geometry(geometry: Geometry, tiling: Tiling) -> Geometry:
    """Return where the tokens of a scene lie: same corner, pixels as large as a token."""
    a, b, c, d, e, f = geometry.transform
    high, wide = tiling.cell
    transform = (a * wide, b * high, c, d * wide, e * high, f)
    return Geometry(geometry.crs, transform, tiling.height, tiling.width)
