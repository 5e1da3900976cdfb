"""A MONAI bundle runs without this package and gives the label maps of `mimkit predict ct`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from tiny_ct import ball_volume, write_threshold_model, write_unetr
from tiny_models import write_model
from tiny_volumes import geometry, write_nifti_file

from mimkit.pipelines.cli import main
from mimkit.pipelines.volumes.predict import PredictCtConfig, run

# What a user of the bundle runs; importing this package would fail.
_RUN = """
import sys
sys.modules["mimkit"] = None
from monai.bundle import run
run(config_file="configs/inference.json", meta_file="configs/metadata.json",
    dataset_dir=sys.argv[1], output_dir=sys.argv[2])
"""


def export(model: Path, out: Path) -> Path:
    assert main(["export", str(model), "--to", "monai-bundle", "--out", str(out)]) == 0
    return out


class Double(torch.autograd.Function):
    """A linear layer that TorchScript cannot hold, as DeepSpeed's stage 3 leaves one behind."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
        return x @ weight.t() + (0 if bias is None else bias)


def run_bundle(bundle: Path, volumes: Path, out: Path) -> None:
    """Run a bundle as MONAI does, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", _RUN, str(volumes), str(out)]
    done = subprocess.run(words, cwd=bundle, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def both(model: Path, folder: Path, volumes: Path, name: str) -> tuple[Any, Any]:
    """Return the label maps that the bundle and `predict ct` make of a volume."""
    run_bundle(export(model, folder / "bundle"), volumes, folder / "theirs")
    given = (volumes / f"{name}.nii.gz",)
    run(PredictCtConfig(volumes=given, model=model, out=folder / "ours.nii.gz", device="cpu"))
    ours = nibabel.load(folder / "ours.nii.gz")
    return nibabel.load(folder / "theirs" / f"{name}_seg.nii.gz"), ours


def write_case(folder: Path, shape: tuple[int, int, int]) -> Path:
    """Write an oblique, anisotropic body with a bright ball in it, and air around it."""
    grid = geometry(shape, (0.8, 0.9, 2.5), turn=23.0).reoriented("IRA")
    shape = grid.shape
    centre = (0.4 * shape[0], 0.6 * shape[1], 0.45 * shape[2])
    voxels = ball_volume(shape, centre, 0.2 * min(shape), 0)[0]
    where = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    voxels[(where**2).sum(0) > 0.8] = -1000
    folder.mkdir()
    write_nifti_file(folder / "case.nii.gz", voxels, grid.affine)
    return folder


def test_it_gives_the_same_label_map_of_an_oblique_volume(tmp_path: Path) -> None:
    model = write_threshold_model(tmp_path / "model")
    theirs, ours = both(model, tmp_path, write_case(tmp_path / "in", (26, 22, 17)), "case")
    assert ours.get_fdata().any()
    np.testing.assert_array_equal(theirs.get_fdata(), ours.get_fdata())
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
    assert theirs.get_data_dtype() == np.uint8


def test_a_resampling_model_differs_at_borders_alone(tmp_path: Path) -> None:
    model = write_threshold_model(tmp_path / "model", spacing=(2.0, 1.2, 1.2))
    theirs, ours = both(model, tmp_path, write_case(tmp_path / "in", (40, 40, 30)), "case")
    one, other = theirs.get_fdata() > 0, ours.get_fdata() > 0
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)
    dice = 2 * (one & other).sum() / (one.sum() + other.sum())
    assert dice > 0.9
    centres = [np.argwhere(mask).mean(axis=0) for mask in (one, other)]
    np.testing.assert_allclose(*centres, atol=0.2)  # voxels


@pytest.mark.slow
def test_a_unetr_gives_the_same_label_map_of_a_real_volume(tmp_path: Path, samples: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = samples / "ct" / "sarcoma" / "STS_002" / "CT_image.nii.gz"
    (folder / "case.nii.gz").symlink_to(source)
    model = write_unetr(tmp_path / "model", token=True, spacing=None)
    theirs, ours = both(model, tmp_path, folder, "case")
    one, other = theirs.get_fdata(), ours.get_fdata()
    assert 0.05 < (other > 0).mean() < 0.95
    # Rounding decides where two classes are equally likely.
    assert (one != other).mean() < 1e-4
    np.testing.assert_allclose(theirs.affine, ours.affine, atol=1e-4)


def test_monai_finds_all_that_a_bundle_has_to_have(tmp_path: Path) -> None:
    from monai.bundle.scripts import verify_net_in_out
    from monai.bundle.workflows import ConfigWorkflow

    model = write_threshold_model(tmp_path / "model")
    bundle = export(model, tmp_path / "bundle")
    files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert files >= {"LICENSE", "docs/README.md", "models/model.ts", "scripts/body.py"}
    config, meta = bundle / "configs" / "inference.json", bundle / "configs" / "metadata.json"
    shared: dict[str, Any] = {"config_file": str(config), "meta_file": str(meta)}
    verify_net_in_out("network_def", device="cpu", bundle_root=str(bundle), **shared)
    workflow = ConfigWorkflow(workflow_type="infer", bundle_root=str(bundle), **shared)
    sys.path.insert(1, str(bundle))  # as `run` does
    try:
        workflow.initialize()
        assert workflow.check_properties() == []
    finally:
        sys.path.remove(str(bundle))
        for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
            del sys.modules[name]
    content = json.loads(meta.read_text())
    assert content["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] == "ball"


def test_the_file_has_no_device_in_it_and_takes_any_number_of_windows(tmp_path: Path) -> None:
    bundle = export(write_unetr(tmp_path / "model", token=False), tmp_path / "bundle")
    network = torch.jit.load(str(bundle / "models" / "model.ts"))
    assert ": Device" not in str(network.inlined_graph)  # so that it can be moved to a GPU
    windows = torch.rand(3, 2, 32, 16, 48, generator=torch.Generator().manual_seed(0))
    windows[0, 1] = 0
    with torch.no_grad():
        scores = network(windows)
    assert scores.shape[0] == 3
    assert not scores[0].any()
    assert scores[1].any()


def test_a_filled_in_licence_is_kept(tmp_path: Path) -> None:
    model = write_threshold_model(tmp_path / "model")
    licence = export(model, tmp_path / "bundle") / "LICENSE"
    assert "Write here what you allow" in licence.read_text()
    licence.write_text("CC BY 4.0")
    export(model, tmp_path / "bundle")
    assert licence.read_text() == "CC BY 4.0"


def test_a_model_of_another_domain_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--to", "monai-bundle", "--out", str(tmp_path / "bundle")]
    assert main(["export", str(write_model(tmp_path / "model")), *words]) == 2
    assert "is a model of satellite images" in capsys.readouterr().err


def test_a_linear_layer_that_others_put_in_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.functional, "linear", Double.apply)
    model = write_unetr(tmp_path / "model", token=True)
    assert (export(model, tmp_path / "bundle") / "models" / "model.ts").exists()
    assert torch.nn.functional.linear == Double.apply
