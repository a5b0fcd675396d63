"""Settings that papers publish, and the embedded model's. Each value's origin stands beside it."""

from dataclasses import replace

from ..settings import OMGSR_SIGMA, RopeSettings
from ..settings import PRESETS as UPSCALE
from .settings import LossWeights, TrainSettings

_ULTRAFLUX = RopeSettings(theta=10_000.0, scheme="resonance-yarn")
_PAPER = TrainSettings(
    crop=4096,
    least_crop=1024,
    losses=LossWeights(lpips=5.0, adversarial=0.5, wavelet=1.0, periodicity=1000.0),
    prior_rope=_ULTRAFLUX,
)

_OSEDIFF = TrainSettings(
    sample_posterior=True,
    rank=4,
    alpha=8,
    learning_rate=5e-5,
    weight_decay=1e-2,
    steps=20_000,
    crop=512,
    degradation="osediff",
    losses=LossWeights(mse=4.0, lpips=2.0, vsd=1.0, periodicity=0.0, refinement=0.0),
    regulariser_learning_rate=5e-5,
)

_TVT_WHOLE = "down_blocks.0 up_blocks.3.upsamplers up_blocks.4 conv_in conv_out"

_VAE_STAGE = TrainSettings(
    stage="encoder",
    learning_rate=1e-4,
    weight_decay=1e-2,
    steps=50_000,
    batch=256,
    crop=256,
    scale=1,
    degradation="none",
    losses=LossWeights(mse=0.0, l1=2.0, lpips=1.0, periodicity=0.0, refinement=0.0),
    critic="patch",
    gan="hinge",
    gan_adaptive=True,
)

PRESETS = {
    # OP4KSR (arXiv 2605.13457): LoRA 64 on encoder and transformer, lr 2.5e-5, batch 16, 2,000 iterations, theta 100,
    # L_AP as the paper writes it. The weights of its losses and its crop are not published. Two days on eight cards are
    # 86 s for an iteration of 16, about what 3 to 4K crops take, and positions above a crop's tokens are never seen: so
    # 4096 px, in a mix down to 1024. The loss weights are OMGSR's: MSE 2, LPIPS 5, GAN 0.5 and L_vae 5 on pictures in
    # [-1, 1], where 2 of MSE is 8 of ours. L_AP of pictures in [0, 1] is 1e-7 to 1e-6, a lattice of 4/255 alone 1.5e-9.
    "op4ksr-paper": _PAPER,
    # What the slopes along a lattice ask for (docs/ablation.md): as the paper writes it, 1000 L_AP pulls at a lattice
    # of 1/255 with 2e-6, MSE with 300e-6, L1 with 3300e-6. Without the mean of a 33-px box and over the variance, L_AP
    # pulls with 18,000e-6 at weight 1; 0.3 of it is stronger than the other losses together from 1/255 on.
    "op4ksr": replace(
        _PAPER, losses=replace(_PAPER.losses, periodicity=0.3), lap_highpass="box", lap_normalise="variance"
    ),
    # OMGSR-F (arXiv 2508.08227): FLUX.1-dev, its own VAE at 8x, theta 10,000; crops of 1024 px. Its code samples the
    # posterior, makes LR pictures of an eighth with kernels of 11 to 41 px, and has the empty prompt. The losses are
    # the paper's; the released code has L1 0.5 and DISTS 5 on DINOv3 in place of MSE and LPIPS.
    "omgsr-f": replace(
        _PAPER,
        sigma=OMGSR_SIGMA,
        rope=RopeSettings(theta=10_000.0),
        learning_rate=5e-5,
        batch=8,
        steps=6000,
        crop=1024,
        least_crop=0,
        scale=8,
        degradation="omgsr-f",
        sample_posterior=True,
        losses=LossWeights(lpips=5.0, adversarial=0.5, periodicity=0.0),
        prior_rope=RopeSettings(theta=10_000.0),
    ),
    # OSEDiff (arXiv 2406.08177): LoRA 4 (alpha 8) on UNet and encoder, conv_in whole; on [-1, 1] MSE 1, LPIPS 2, VSD 1.
    # The number of steps is not stated in what we read.
    "osediff": _OSEDIFF,
    # TVT (arXiv 2507.20291): timestep 1; VSD on the quadrants of its 128x128 latent, t from 250 to 750. Its code
    # freezes the encoder, trains the CE-UNet's new blocks whole and distils from Stable Diffusion 2.1-base's own UNet.
    "tvt": replace(
        _OSEDIFF, timestep=1, vsd_range=(0.25, 0.75), vsd_quadrants=True, encoder_lora=False, whole_layers=_TVT_WHOLE
    ),
    # TVT's VAE-D4 in two stages: pixel, LPIPS and adversarial loss with an adaptive weight (Esser et al. 2021, eq. 7),
    # then pixel and LPIPS. Rate 1e-4 and batch 256 are the paper's (4.1); weights and crop are LDM's habits.
    "tvt-decoder": replace(_VAE_STAGE, stage="decoder", losses=replace(_VAE_STAGE.losses, adversarial=0.5)),
    "tvt-encoder": replace(_VAE_STAGE, gan_adaptive=False),
    # F2IDiff-SR's prior: 700,000 steps of 120 pictures of 512 px at 1e-4, the VAE frozen (4.1).
    "f2idiff-prior": TrainSettings(
        stage="prior",
        learning_rate=1e-4,
        weight_decay=1e-2,
        steps=700_000,
        batch=120,
        crop=512,
        scale=1,
        degradation="none",
        losses=LossWeights(mse=0.0, periodicity=0.0, refinement=0.0, denoising=1.0),
    ),
    # F2IDiff-SR: OSEDiff's losses with DINOv2's features as the condition; 256-px crops, batch 6.
    "f2idiff": replace(_OSEDIFF, crop=256, batch=6),
    # The detail network behind a frozen model: the losses and the rate of the bundled network's recipe,
    # recipes/embedded/detail.py, without its teacher. The degradation is that of `op4ksr`.
    "compensation": TrainSettings(
        stage="compensation",
        learning_rate=1e-4,
        batch=8,
        per_device=8,
        crop=256,
        degradation="omgsr",
        losses=LossWeights(mse=8.0, l1=1.0, colour=1.0, soft=1.0, periodicity=0.0, refinement=0.0),
        precision="no",
        checkpointing=False,
    ),
    # Fine-tunes the embedded model on any machine, on what it is judged by: the picture after back-projection, as
    # strong as `upscale` runs it.
    "embedded": TrainSettings(
        rank=16,
        alpha=16,
        learning_rate=2e-4,
        steps=500,
        batch=4,
        per_device=4,
        crop=256,
        degradation="embedded",
        fidelity=UPSCALE["embedded"].fidelity,
        losses=LossWeights(mse=10.0, l1=1.0, wavelet=0.25, periodicity=0.1, refinement=0.02),
        lap_highpass="box",
        lap_normalise="variance",
        prior_rope=RopeSettings(),
        precision="no",
        checkpointing=False,
    ),
}
