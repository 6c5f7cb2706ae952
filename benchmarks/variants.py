"""Named settings over the pocket presets, for the search and the ablations.

Each is a nested dictionary for `config.resolve`; "preset" names the preset it lies over, `pocket`
without one. The comment says what it asks.
"""

from __future__ import annotations

from typing import Any

from apdm_cli.protection.settings import preset

_PRESET = preset("pocket")
_STEPS, _WEIGHT = _PRESET["steps_outer"], _PRESET["preservation"]["weight"]
# Weights as they are drawn: most attackers fine-tune everything, some train little at a high rate.
_POOL = [
    {"attack": "dreambooth", "weight": 2.0},
    {"attack": "dreambooth", "weight": 1.0, "settings": {"learning_rate": 6e-4}},
    {"attack": "custom-diffusion", "weight": 1.0},
]

ABLATIONS: dict[str, dict[str, Any]] = {
    "preset": {},
    # Which part carries it: each off in turn. A restarted path of five steps takes as many
    # protective gradients as five outer steps with a persistent attacker.
    "restarted": {"attackers": {"kind": "restart"}, "steps_outer": _STEPS // 5, "steps_inner": 5},
    "absolute-margin": {
        "margin": {"kind": "absolute", "one_sided": False, "at_start": 0.0},
        "beta": 1.0,
    },
    "two-sided": {"margin": {"one_sided": False}},
    "not-at-start": {"margin": {"at_start": 0.0}},
    "not-staggered": {"attackers": {"staggered": False}},
    "nobody-taught": {"others": {"count": 0}},
    "no-average": {"average_last": 0.0},
    "exponential-average": {"average_last": 0.0, "average": 0.98},
    # Who attacks.
    "four-attackers": {"attackers": {"count": 4}},
    "older": {"attackers": {"ages": (300, 600)}},
    "wider-rates": {"attackers": {"rates": (1.0, 8.0)}},
    "dreambooth": {"preset": "pocket-dreambooth"},
    "mixed": {"attackers": {"count": 2, "pool": _POOL}},
    # How long, how hard.
    "half": {"steps_outer": _STEPS // 2},
    "double": {"steps_outer": 2 * _STEPS},
    "beta-1": {"beta": 1.0},
    "beta-4": {"beta": 4.0},
    "weight-half": {"preservation": {"weight": _WEIGHT / 2}},
    "weight-double": {"preservation": {"weight": 2 * _WEIGHT}},
    "no-weight-decay": {"weight_decay": 0.0},
    # The paper's loop and its own ablations; is it the margin or the persistence that it lacks?
    "paper": {"preset": "pocket-paper"},
    "paper-relative": {"preset": "pocket-paper", "margin": {"kind": "relative"}},
    "paper-naive": {"preset": "pocket-paper", "objective": "naive"},
    "paper-unpaired": {"preset": "pocket-paper", "pairing": "random"},
    "published-code": {
        "preset": "pocket-paper",
        "include_personalization_gradient": True,
        "prompt_style": "published",
    },
    # Gradients at θ itself, without any attacker: the preset before.
    "plain": {"preset": "pocket-plain"},
}

# Does a difference of low rank do what all weights do? Against DreamBooth, as when it was measured.
_DREAMBOOTH = {"preset": "pocket-dreambooth"}
_LORA = {"attack": "lora", "settings": {"learning_rate": 2e-3, "rank": 8, "alpha": 8}}
ADAPTERS: dict[str, dict[str, Any]] = {
    "full": _DREAMBOOTH,
    "adapter": {**_DREAMBOOTH, "train": "adapter"},
    # An outer step takes a fifth longer with an adapter: as many of them as take equally long.
    "adapter-equal-time": {**_DREAMBOOTH, "train": "adapter", "steps_outer": round(_STEPS / 1.2)},
    "adapter-attention": {
        **_DREAMBOOTH,
        "train": "adapter",
        "adapter": {"rank": 16, "alpha": 16, "targets": "attention"},
    },
    # What fits a small card: attackers that train adapters as well.
    "adapter-against-adapters": {**_DREAMBOOTH, "train": "adapter", "path": _LORA},
}

# Learning-to-Protect that takes as long as the preset's gradients at θ itself.
_L2P: dict[str, Any] = {
    "preset": "pocket-plain",
    "steps_outer": 150,
    "steps_inner": 5,
    "learning_rate": 2e-4,
    "beta": 1.0,
    "path": {"learning_rate": 1e-4, "batch_size": 2, "prior_weight": 0.3},
    "preservation": {"weight": 5.0},
}
_PLAIN: dict[str, Any] = {
    "preset": "pocket-plain",
    "steps_outer": 1000,
    "steps_inner": 0,
    "learning_rate": 1e-4,
    "beta": 1.0,
    "preservation": {"weight": 5.0},
}


def _with(base: dict[str, Any], weight: float, **more: Any) -> dict[str, Any]:
    return {**base, **more, "preservation": {**base["preservation"], "weight": weight}}


_EARLIER_ABLATIONS: dict[str, dict[str, Any]] = {
    # Learning-to-Protect, twins of it, and N_per half and double at equal gradients.
    "l2p": _L2P,
    "without-l2p-equal-steps": {**_L2P, "steps_inner": 0},
    "without-l2p-equal-time": _PLAIN,
    "n-per-half": {**_L2P, "steps_outer": 300, "steps_inner": 2},
    "n-per-double": {**_L2P, "steps_outer": 75, "steps_inner": 10},
    # The paper's own ablations.
    "unpaired": {**_L2P, "pairing": "random"},
    "naive": {**_L2P, "objective": "naive"},
    "beta-0.1": {**_L2P, "beta": 0.1},
    "beta-10": {**_L2P, "beta": 10.0},
    # Where log σ is applied. "sum" at β is "sample" at β times the elements: no run of its own.
    "sample-reduction": {**_L2P, "dpo_reduction": "sample"},
    # The paper's preservation: class pictures, weight 1, pairs over the whole schedule.
    "paper": {
        **_L2P,
        "timestep_range": [0.0, 1.0],
        "preservation": {"kind": "class-pictures", "weight": 1.0, "batch_size": 2},
    },
    "published-code": {
        **_L2P,
        "include_personalization_gradient": True,
        "prompt_style": "published",
        "preservation": {"kind": "class-pictures", "weight": 1.0, "batch_size": 2},
    },
}

# What was tried before attackers persisted, with gradients at θ itself: benchmarks/notes/search.md.
EARLIER: dict[str, dict[str, Any]] = {
    **_EARLIER_ABLATIONS,
    # The paper's setting at half and at double the outer rate.
    "paper-rate-1e-4": {**_EARLIER_ABLATIONS["paper"], "learning_rate": 1e-4},
    "paper-rate-4e-4": {**_EARLIER_ABLATIONS["paper"], "learning_rate": 4e-4},
    # How hard the rest is held in place.
    "plain-weight-20": _with(_PLAIN, 20.0),
    "plain-long-weight-10": _with(_PLAIN, 10.0, steps_outer=2000),
    # A smaller β lets r⁻ grow further before it saturates; the weight moves along.
    "plain-beta-0.1": _with(_PLAIN, 2.0, beta=0.1),
    # Does a bound on r⁻ save the class without costing protection?
    "plain-bounded": {**_PLAIN, "max_negative_margin": 2.0},
    # A decaying rate; a larger one.
    "plain-cosine": {**_PLAIN, "steps_outer": 2000, "learning_rate_schedule": "cosine"},
    "plain-fast": _with(_PLAIN, 20.0, learning_rate=2e-4),
    # Paths nearly as long as the attack.
    "l2p-long-path": _with(
        {**_L2P, "steps_outer": 40, "steps_inner": 50, "protect_every": 5}, 20.0
    ),
    "l2p-weight-20": _with({**_L2P, "steps_outer": 200, "learning_rate_schedule": "cosine"}, 20.0),
}

VARIANTS: dict[str, dict[str, Any]] = {
    **ABLATIONS,
    **{name: settings for name, settings in ADAPTERS.items() if name != "full"},
    **{f"earlier-{name}": settings for name, settings in EARLIER.items()},
}
