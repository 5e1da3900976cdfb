"""Methods with a teacher, and with several views of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mimkit.core.batch import Batch, Progress
from mimkit.core.masking.hard import HardMask
from mimkit.core.method import Method
from mimkit.core.methods import HPMConfig
from mimkit.core.noise import FixedNoise
from mimkit.core.objectives.ranking import absolute
from mimkit.core.reconstruction import pixel_head
from mimkit.core.tokens import membership

from .common import Case, decoder_config, encoder_config, inputs, names, published_method


def own_gradient_norms(method: Method, case: Case, translate: Callable[[str], str], prefix: str):
    """Return the gradient norms a case asks for; parameters that never learn have zero."""
    own, norms = dict(method.named_parameters()), {}
    for key in case["outputs"]:
        if key.startswith(prefix):
            parameter = own[translate(key.removeprefix(prefix))]
            assert parameter.requires_grad == (parameter.grad is not None), key
            norms[key] = torch.zeros(()) if parameter.grad is None else parameter.grad.norm()
    return norms


def run_hpm(case: Case) -> dict[str, Tensor]:
    """Compute everything an HPM case may ask for."""
    published, given = case["config"], inputs(case)
    config = HPMConfig(
        encoder=encoder_config(published),
        decoder=decoder_config(published),
        mask_ratio=published["mask_ratio"],
        norm_pix=published["norm_pix_loss"],
        as_published=True,
    )
    method = published_method({**case, "config": {"in_chans": 3, **published}}, config)
    batch = Batch(given["images"], None, torch.arange(len(given["images"])))
    progress = Progress(published["epoch"], published["total_epochs"])
    output = method(batch, progress, FixedNoise({"mask": given["noise"]}))
    output.loss.backward()
    assert isinstance(method.mask, HardMask)
    truth = pixel_head(method).target(output.context, output.plan.predict).values
    error = (output.predictions["pixels"] - truth).square().mean(dim=-1).detach()
    scores = output.predictions["hardness"][..., 0]
    total, amount = absolute(scores, error, torch.ones_like(error))
    return {
        "teacher_predicted_loss": method.mask.hardness(output.context),
        "mask": membership(output.plan.predict, method.grid.num_tokens).float(),
        "latent": in_raster_order(output.features.sequence, output.plan.visible),
        "pred_masked": output.predictions["pixels"],
        "patch_loss": error,
        "predicted_loss_masked": scores,
        "loss_reconstruction": output.terms["pixels"],
        "loss_predictor_relative": output.terms["hardness"],
        "loss_predictor_absolute": total.sum() / amount.sum(),
        "loss": output.loss,
        **own_gradient_norms(method, case, names(case, "hpm").__getitem__, "grad_norm/"),
    }


def in_raster_order(sequence: Tensor, visible: Tensor) -> Tensor:
    """Sort encoded tokens by their place; prefix tokens stay in front."""
    num_prefix = sequence.shape[1] - visible.shape[1]
    order = visible.argsort(dim=1)[..., None].expand(-1, -1, sequence.shape[2])
    body = sequence[:, num_prefix:].gather(1, order)
    return torch.cat([sequence[:, :num_prefix], body], dim=1)


ADAPTERS = {"hpm": run_hpm}
