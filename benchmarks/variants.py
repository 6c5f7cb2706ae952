"""Named settings over the pocket preset, for the search and the ablations.

Each is a nested dictionary for `config.resolve`; the comment says what it asks.
"""

from __future__ import annotations

from typing import Any

_DISTILL = {
    "kind": "distill",
    "weight": 5.0,
    "batch_size": 4,
    "evaluated_at": "path",
    "identifier_share": 0.25,
    "empty_share": 0.25,
    "captions": "pocket",
}
_L2P = {
    "steps_outer": 150,
    "steps_inner": 5,
    "learning_rate": 2e-4,
    "batch_size": 2,
    "timestep_range": [0.0, 0.6],
    "path": {"learning_rate": 2e-4, "batch_size": 2, "prior_weight": 0.05},
    "preservation": _DISTILL,
}
_PLAIN = {**_L2P, "steps_outer": 1000, "steps_inner": 0, "learning_rate": 1e-4}

VARIANTS: dict[str, dict[str, Any]] = {
    # Learning-to-Protect with the prototypes' best settings.
    "l2p": _L2P,
    # The same with smaller and more outer steps.
    "l2p-slow": {**_L2P, "steps_outer": 300, "learning_rate": 1e-4},
    # N_per = 0 at nearly equal time: gradients at θ itself.
    "plain": _PLAIN,
    # N_per = 0 at equal outer steps.
    "plain-equal-steps": {**_L2P, "steps_inner": 0},
    # Does a bound on r⁻ save the class without costing protection?
    "plain-bounded": {**_PLAIN, "max_negative_margin": 2.0},
    # Larger batches of pairs and preservation, fewer steps.
    "plain-wide": {
        **_PLAIN,
        "steps_outer": 900,
        "batch_size": 4,
        "learning_rate": 2e-4,
        "learning_rate_schedule": "cosine",
        "preservation": {**_DISTILL, "batch_size": 8},
    },
    # The paper's own setting: per element, β = 1, class-picture preservation, all timesteps.
    "paper": {
        **_L2P,
        "timestep_range": [0.0, 1.0],
        "preservation": {"kind": "class-pictures", "weight": 1.0, "batch_size": 2},
    },
    # The paper's ablations.
    "unpaired": {**_L2P, "pairing": "random"},
    "naive": {**_L2P, "objective": "naive"},
    "beta-0.1": {**_L2P, "beta": 0.1},
    "beta-10": {**_L2P, "beta": 10.0},
    "sample-reduction": {**_L2P, "dpo_reduction": "sample", "beta": 10.0},
}
