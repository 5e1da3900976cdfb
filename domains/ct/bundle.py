"""A fine-tuned CT model as a MONAI bundle: network, transforms, metadata, in MONAI's own layout.

The bundle runs without this package: `python -m monai.bundle run`. Its network is TorchScript, as
no class of MONAI knows tokens without data; everything around it is MONAI's transforms, apart from
the mask of the body, whose code is copied into the bundle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ...core.checkpoints.model_dir import CONFIG_FILE
from ...core.checkpoints.to_torchscript import export_torchscript
from ...core.files import write_text
from ...core.heads.task import LoadedTask
from .hounsfield import PADDING
from .normalise import Normaliser

NETWORK = "models/model.ts"
INFERENCE, METADATA = "configs/inference.json", "configs/metadata.json"
VERSION = "0.1.0"
OVERLAP = 0.5
_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_PARTS = {"body.py": "body.py", "bundle_parts.py": "parts.py"}
_TYPES_ONLY = "from jaxtyping import"
_README = """# {name}

Segmentation of CT volumes into {classes}. Written by `mimkit export --to monai-bundle`.

```
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --dataset_dir FOLDER --output_dir FOLDER
```

Run it in this folder. Volumes are NIfTI files in Hounsfield units (`*.nii`, `*.nii.gz`); each gets
a label map on its own grid, `NAME_seg.nii.gz`. It needs MONAI, torch, nibabel and scipy.

- Input of the network: two channels, HU of {low:g} to {high:g} as 0 to 1, and the mask of the body;
  depth towards the head, height towards the back, width to the left ({spacing}); windows of
  {window} voxels. Tokens outside of the body are read by nobody.
- Unlike `mimkit predict ct`, a bundle does not refuse what is no CT, and takes no DICOM by itself.
- `models/model.ts` is TorchScript: weights and arithmetic, no Python code. It scores windows of
  this one size. Scores differ from those of the model it was made from by at most {apart:.1e} of
  their range.
- Label maps are those of `mimkit predict ct`{resampled}.

Not a medical device: nobody has tested it for use on patients.
"""
_RESAMPLED = (
    ", but for voxels at the border of structures: volumes are resampled to the model's spacing, "
    "and MONAI puts the first voxel's centre where it was, we its corner"
)
_LICENSE = """Code in scripts/ and the arithmetic of models/model.ts come from mimkit and are under
the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0

The weights in models/model.ts belong to whoever trained them, on data whose licence may bind them.
Write here what you allow others to do with them before you pass this bundle on.
"""


def write_bundle(
    task: LoadedTask,
    normaliser: Normaliser,
    out: Path,
    images: Float[Tensor, "b 1 *s"] | None = None,
) -> float:
    """Write a bundle: configs, models, docs, scripts and a licence to be filled in.

    Args:
        task: a fine-tuned segmentation model of CT.
        normaliser: how it reads voxels.
        out: folder that is made; its name is the bundle's.
        images: normalised windows to compare on; noise otherwise.

    Returns:
        By how much scores differ from the model's, as a share of their range.

    Raises:
        UsageError: for a model that gives no class to each voxel.
        WeightsError: when the network in the bundle gives other scores.
    """
    apart = export_torchscript(task, out / NETWORK, images)
    here = Path(__file__).parent
    for source, name in _PARTS.items():
        lines = (here / source).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(_TYPES_ONLY)]
        write_text(out / "scripts" / name, "".join(kept))
    write_text(out / "scripts" / "__init__.py", '"""Code of this bundle."""\n')
    for name, content in {
        INFERENCE: inference(task, normaliser),
        METADATA: about(task, normaliser, out.name),
        CONFIG_FILE: {"bundle": NETWORK, "normaliser": task.normaliser, "difference": apart},
    }.items():
        write_text(out / name, json.dumps(content, indent=4) + "\n")
    spacing = normaliser.spacing
    text = _README.format(
        name=out.name,
        classes=", ".join(task.config.classes),
        low=normaliser.window[0],
        high=normaliser.window[1],
        spacing="in the volume's own spacing" if spacing is None else f"{_times(spacing)} mm",
        window=_times(task.config.image_size),
        apart=apart,
        resampled="" if spacing is None else _RESAMPLED,
    )
    write_text(out / "docs" / "README.md", text)
    if not (out / "LICENSE").exists():  # somebody may have filled it in
        write_text(out / "LICENSE", _LICENSE)
    return apart


def inference(task: LoadedTask, normaliser: Normaliser) -> dict[str, Any]:
    """Return the configuration of inference, as `monai.bundle.ConfigParser` takes it."""
    return {
        "imports": ["$import glob", "$import os", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$os.path.join(@bundle_root, 'data')",
        "output_dir": "$os.path.join(@bundle_root, 'eval')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "window": list(task.config.image_size),
        "overlap": OVERLAP,
        "network_file": f"$os.path.join(@bundle_root, '{NETWORK}')",
        "network_def": "$torch.jit.load(@network_file, map_location=@device).eval()",
        "preprocessing": {"_target_": "Compose", "transforms": _before(normaliser)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': name} for name in @datalist]",
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": "@window",
            "overlap": "@overlap",
            "mode": "gaussian",
            "padding_mode": "constant",
            "sw_device": "@device",
            "device": "cpu",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": _after(normaliser, len(task.config.classes)),
        },
        "evaluator": {
            "_target_": "scripts.parts.Evaluator",
            "dataset": "@dataset",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "device": "@device",
        },
        "run": ["$@evaluator.run()"],
    }


def _before(normaliser: Normaliser) -> list[dict[str, Any]]:
    """Return the transforms from a file to the network's two channels."""
    key = {"keys": "image"}
    factor, summand = normaliser.coefficients
    steps = [
        {"_target_": "LoadImaged", **key, "ensure_channel_first": True},
        {"_target_": "Orientationd", **key, "axcodes": normaliser.orientation, "labels": None},
    ]
    if normaliser.spacing is not None:
        pixdim = list(normaliser.spacing)
        steps.append({"_target_": "Spacingd", **key, "pixdim": pixdim, "mode": "bilinear"})
    window = {"a_min": -summand / factor, "a_max": (1 - summand) / factor}
    return [
        *steps,
        {"_target_": "scripts.parts.AddBodyd", **key, "body_key": "body", "padding": PADDING},
        {
            "_target_": "ScaleIntensityRanged",
            **key,
            **window,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
        {"_target_": "ConcatItemsd", "keys": ["image", "body"], "name": "image"},
    ]


def _after(normaliser: Normaliser, num_classes: int) -> list[dict[str, Any]]:
    """Return the transforms from scores to a file on the grid of the input."""
    key = {"keys": "pred"}
    winner = {"_target_": "AsDiscreted", **key, "argmax": True}
    back = {
        "_target_": "Invertd",
        **key,
        "transform": "@preprocessing",
        "orig_keys": "image",
        "nearest_interp": True,
    }
    steps = [winner, back]
    if normaliser.spacing is not None:
        # Shares of classes are interpolated, not numbers: the nearest voxel would shift borders.
        shares = {**winner, "to_onehot": num_classes}
        steps = [shares, {**back, "nearest_interp": False}, winner]
    save = {
        "_target_": "SaveImaged",
        **key,
        "output_dir": "@output_dir",
        "output_postfix": "seg",
        "output_dtype": "$numpy.uint8",
        "resample": False,
        "separate_folder": False,
    }
    return [*steps, save]


def about(task: LoadedTask, normaliser: Normaliser, name: str) -> dict[str, Any]:
    """Return the metadata that MONAI's schema asks for."""
    classes = task.config.classes
    size = list(task.config.image_size)
    patch = {"spatial_shape": size, "dtype": "float32", "is_patch_data": True}
    low, high = normaliser.window
    return {
        "schema": _SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: "written by mimkit export"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {part: _version(part) for part in ("nibabel", "scipy")},
        "supported_apps": {},
        "name": name,
        "task": "segmentation of computed tomography",
        "description": f"Segments CT volumes into {', '.join(classes)}.",
        "authors": "to be filled in by whoever trained it",
        "copyright": "to be filled in by whoever trained it",
        "data_type": "nibabel",
        "image_classes": f"one channel, {low:g} to {high:g} HU scaled to 0 to 1, and the body",
        "label_classes": _numbered(classes),
        "pred_classes": _numbered(classes),
        "intended_use": "Research only; not tested for use on patients.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield",
                    "modality": "CT",
                    "num_channels": 2,
                    **patch,
                    "value_range": [0, 1],
                    "channel_def": {"0": "image", "1": "body"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(classes),
                    **patch,
                    "value_range": [],
                    "channel_def": _numbered(classes),
                }
            },
        },
    }


def _numbered(classes: Sequence[str]) -> Mapping[str, str]:
    return {str(number): name for number, name in enumerate(classes)}


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _version(package: str) -> str:
    return metadata.version(package).split("+")[0]
