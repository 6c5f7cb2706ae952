"""Direct Protective Optimization: the loss, as pure functions of squared errors.

Source: arXiv 2511.01307, eq. 14; notation and differences as in docs/method.md. The errors are in
whatever the model's denoiser predicts (`NoiseProcess.target`): the noise ε in the paper and below,
the velocity ε − x of a flow (arXiv 2403.03206, eq. 13 and 14), where ‖ε_θ − ε‖² reads
‖v_θ(x_t, t) − (ε − x)‖². At a given timestep either is the error in x times a constant (1 / SNR and
1 / σ²), so that the sign of every margin is the same.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

Reduction = Literal["element", "sample", "sum"]


def reward_margin(policy: Tensor, reference: Tensor) -> Tensor:
    """r = ‖ε_θ − ε‖² − ‖ε_φ − ε‖², unreduced (B, C, H, W): how much worse θ is than φ.

    r⁺ of generic class pictures should fall, r⁻ of the subject's photos should rise.
    """
    return policy - reference


def reduce_margin(margin: Tensor, reduction: Reduction) -> Tensor:
    """Bring an unreduced margin (B, C, H, W) to the shape in which log σ is applied.

    "element": as it is. "sample": mean over C, H, W, shape (B,). "sum": sum over C, H, W.
    """
    if reduction == "element":
        return margin
    if reduction == "sample":
        return margin.mean(dim=(1, 2, 3))
    return margin.sum(dim=(1, 2, 3))


def direct_protective_loss(
    policy_positive: Tensor,
    reference_positive: Tensor,
    policy_negative: Tensor,
    reference_negative: Tensor,
    beta: float,
    reduction: Reduction = "element",
    max_negative_margin: float = 0.0,
) -> Tensor:
    """L_DPO = −E log σ(−β (r⁺ − r⁻)), eq. 14.

    Args:
        policy_positive, policy_negative: squared errors of θ on class pictures and on photos,
            unreduced (B, C, H, W), members of a pair at the same index with the same noise and
            timestep.
        reference_positive, reference_negative: the same of the frozen original φ.
        beta: inverse temperature, > 0.
        reduction: where log σ is applied. "element" (default, what the published code does): per
            latent element, then the mean. "sample": the margins are averaged over C, H, W first.
            "sum": eq. 14 read literally, margins summed over C, H, W. With n = C·H·W elements,
            "sum" at β equals "sample" at n·β; "element" and "sample" at the same β have the same
            gradient while all margins are small (|β r| ≪ 1) and part where elements saturate.
        max_negative_margin: bound on r⁻ after the reduction; beyond it a photo's error earns
            nothing more. 0 leaves it unbounded, as in the paper. Not in the paper: r⁻ runs away
            to 5-10 per element otherwise (benchmarks/notes/search.md).

    Returns:
        a scalar >= 0; log 2 when θ = φ.
    """
    positive = reduce_margin(reward_margin(policy_positive, reference_positive), reduction)
    negative = reduce_margin(reward_margin(policy_negative, reference_negative), reduction)
    if max_negative_margin > 0:
        negative = negative.clamp(max=max_negative_margin)
    return -logsigmoid(-beta * (positive - negative)).mean()


def relative_margin(policy: Tensor, reference: Tensor) -> Tensor:
    """r = log(e_θ / e_φ), shape (B,), where e is the mean of a sample's squared errors.

    How many times worse θ is than φ. An attack lowers the error on the photos to about .6 of φ's at
    *every* timestep, which in differences is 20 times as much at little noise as at much: there
    the absolute margin sees low noise only. Errors below 1e-12 count as 1e-12.
    """
    return _log_error(policy) - _log_error(reference)


def _log_error(error: Tensor) -> Tensor:
    return error.mean(dim=(1, 2, 3)).clamp(min=1e-12).log()


def relative_protective_loss(
    positive: Tensor,
    negative: Tensor,
    beta: float,
    *,
    one_sided: bool = False,
    max_negative_margin: float = 0.0,
) -> Tensor:
    """L_rel = E softplus(β (r⁺ − r⁻)) / β, eq. 14 on relative margins. Not in the paper.

    softplus(x) is −log σ(−x); the division makes β a sharpness only: the gradient far from the
    goal is that of r⁺ − r⁻, whatever β.

    Args:
        positive, negative: `relative_margin` of class pictures and of photos, (B,), members of a
            pair at the same index.
        beta: > 0.
        one_sided: r⁺ counts where it is positive: class pictures under the subject's caption may
            not get worse than φ's, and need not get better.
        max_negative_margin: bound on r⁻, as in `direct_protective_loss`.

    Returns:
        a scalar >= 0; log 2 / β where θ = φ.
    """
    if one_sided:
        positive = positive.clamp(min=0)
    if max_negative_margin > 0:
        negative = negative.clamp(max=max_negative_margin)
    return softplus(beta * (positive - negative)).mean() / beta


def naive_protection_loss(policy_negative: Tensor) -> Tensor:
    """−L_per_simple: the first term of the paper's L_adv, kept for the ablation.

    It is unbounded below, and the paper shows that it collapses (its FID rises at every λ); the
    second term, λ L_ppl, is the preservation that every objective here shares.

    Args:
        policy_negative: squared errors on the subject's photos, unreduced (B, C, H, W).

    Returns:
        a scalar <= 0.
    """
    return -policy_negative.mean()
