"""What a difference that was trained on weights in 8 bits does to the exact ones: pocket model.

    python -m benchmarks.pocket_eight_bits [--steps 30]

Protects a sample subject with an adapter on the embedded model in 8 bits, against attackers of
adapters, then asks four networks about the photos: φ and θ in 8 bits, and φ and θ as they would be
saved. Prints how much of what the protection does to the answers is there. It takes a minute of a
core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from apdm_cli.config import resolve
from apdm_cli.diffusion.denoiser import Denoiser
from apdm_cli.diffusion.low_rank import merge, off_eight_bits
from apdm_cli.diffusion.photos import load_photos
from apdm_cli.extension.family import load_model, trained_again
from apdm_cli.extension.manager import attacks, build_plugin_manager
from apdm_cli.extension.protection_config import low_rank
from apdm_cli.pocket.samples import SUBJECTS
from apdm_cli.protection.bench import Bench
from apdm_cli.protection.ingredients import drawing, prepare
from apdm_cli.randomness import Streams
from apdm_cli.subject import Subject
from apdm_protections.apdm import APDM

SAMPLE, CLASS = "cat-1", "cat"
CHOSEN = {
    "train": "adapter",
    "adapter": {"base": "int8"},
    "path": {"attack": "lora", "learning_rate": 2e-3, "settings": {"rank": 8, "alpha": 8}},
    "attackers": {"kind": "restart"},
    "steps_inner": 2,
    "others": {"count": 0},
    "preservation": {"kind": "class-pictures"},
    "prior_pictures": 8,
}
DRAWS = 64  # noised photos that the networks are asked about


def main(argv: Sequence[str] | None = None) -> None:
    """Protect, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30, help="outer steps")
    steps = parser.parse_args(argv).steps
    protection = APDM()
    config = resolve(
        protection.Config, protection.preset("pocket-dreambooth"), CHOSEN, {"steps_outer": steps}
    )
    model = load_model("pocket", torch.device("cpu"), frozen=True, eight_bits=True)
    photos = load_photos([SUBJECTS / SAMPLE / "seen"], model.resolution)
    subject = Subject(SAMPLE, CLASS, "sks", photos)
    inputs = protection.inputs(subject, config)
    with tempfile.TemporaryDirectory(prefix="apdm-") as cache:
        sampler = drawing(model, config)
        ingredients = prepare(model, subject, inputs, sampler, Path(cache))
    known = attacks(build_plugin_manager())
    adapter = low_rank(config)
    bench = Bench(model, subject, inputs, ingredients, Streams(0), known, adapter=adapter)
    for _ in protection.steps(bench, config):
        pass
    assert bench.difference is not None
    draw = bench.source(bench.photos, "measured").draw(DRAWS)
    condition = bench.personal.expand(DRAWS)

    @torch.no_grad()
    def answer(denoiser: Denoiser) -> torch.Tensor:
        return denoiser.predict_each([draw], [condition])[0]

    exact = trained_again(model, None)
    plain = model.denoiser.with_network(exact)
    trained, before, original = answer(model.denoiser), answer(bench.reference), answer(plain)
    weights = off_eight_bits(bench.difference, exact)
    merge(exact, bench.difference, torch.float32)
    did, does = trained - before, answer(plain) - original
    kept = float((does * did).sum() / did.square().sum())
    print(f"{steps} outer steps on {SAMPLE}, in 8 bits below the difference")
    print(f"weights: {weights.kept:.1%} of the difference kept, noise {weights.noise:.0%} of it")
    print(f"answers on photos: {kept:.1%} of the change kept, noise {_part(does - did, did):.1%}")
    print(f"by 8 bits alone they change by {_part(before - original, did):.1%} of that")


def _part(of: torch.Tensor, whole: torch.Tensor) -> float:
    return float(of.norm() / whole.norm())


if __name__ == "__main__":
    main()
