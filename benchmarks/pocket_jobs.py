"""The jobs of the pocket benchmarks: who is attacked or protected, and with which settings.

A job names the weights and the attack too, so that a log never answers for another model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from apdm_cli.config import merge
from apdm_cli.protection.settings import preset
from benchmarks.jobs import Job, run_jobs
from benchmarks.pocket_lab import AttackSettings, Lab
from benchmarks.pocket_trial import protected, undefended

RESULTS = Path(__file__).parent / "results"
CACHE = Path(tempfile.gettempdir()) / "apdm-pocket-lab"
DEMO_ATTACK = AttackSettings()


@dataclass(frozen=True)
class Person:
    """Who is protected, and who else is personalized on the protected model.

    Attributes:
        class_noun: "person", "dog" or "cat".
        seed, other: identity seeds, both held out.
    """

    class_noun: str
    seed: int
    other: int


@cache
def weights() -> str:
    """Digest of the embedded weights, shortened."""
    return Lab(CACHE).model.ref.digest[:12]


def _job(person: Person, seeds: Sequence[int], attack: AttackSettings) -> dict[str, Any]:
    return {
        "class": person.class_noun, "identity": person.seed, "other": person.other,
        "seeds": list(seeds), "attack": asdict(attack), "model": weights(),
    }  # fmt: skip


def baseline_job(
    person: Person, seeds: Sequence[int], attack: AttackSettings = DEMO_ATTACK
) -> dict[str, Any]:
    """The undefended model attacked with this identity, once for each attack seed."""
    return {"kind": "undefended", **_job(person, seeds, attack)}


def protected_job(
    person: Person,
    seeds: Sequence[int],
    variant: str,
    settings: Mapping[str, Any],
    attack: AttackSettings = DEMO_ATTACK,
    protection_seed: int = 0,
) -> dict[str, Any]:
    """One setting on one identity; the name is for readers, the settings count.

    They are written out whole, for a preset may change after the job.

    Args:
        settings: lie over the preset that their key "preset" names, `pocket` without one.
        protection_seed: in the job only if it is not 0, so that older lines still answer.
    """
    overrides = dict(settings)
    whole = merge(preset(overrides.pop("preset", "pocket")), overrides)
    seeded = {"protection_seed": protection_seed} if protection_seed else {}
    job = _job(person, seeds, attack)
    return {"kind": "protected", "variant": variant, "settings": whole, **seeded, **job}


def work(job: Job) -> dict[str, Any]:
    """Run one job in this process."""
    lab = Lab(CACHE, AttackSettings(**job["attack"]))
    who = (job["class"], job["identity"], job["other"], job["seeds"])
    if job["kind"] == "undefended":
        return undefended(lab, *who)
    return protected(lab, job["settings"], *who, protection_seed=job.get("protection_seed", 0))


def run(
    people: Sequence[Person],
    seeds: Sequence[int],
    variants: Mapping[str, Mapping[str, Any]],
    log: Path,
    attack: AttackSettings = DEMO_ATTACK,
    protection_seed: int = 0,
) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """All variants on all people, from `log` or computed.

    Returns:
        results of the undefended model by identity, and the rows {"job", "result"} of the others.
    """  # fmt: skip
    jobs = [baseline_job(person, seeds, attack) for person in people]
    # Identity by identity: a stop leaves every setting on the first ones.
    jobs += [
        protected_job(person, seeds, variant, settings, attack, protection_seed)
        for person in people
        for variant, settings in variants.items()
    ]
    rows = run_jobs(jobs, work, log)
    baselines = {row["job"]["identity"]: row["result"] for row in rows[: len(people)]}
    return baselines, rows[len(people) :]
