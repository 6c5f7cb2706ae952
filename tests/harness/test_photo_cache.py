"""The photos of a cell are kept for the next one: it gets exactly what it would get alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from apdm_cli.digests import folder_digest
from tests.harness.conftest import Place
from tests.harness.test_attack_command import attack, rows

PLUGIN = """
from apdm_attacks.dreambooth import DreamBooth
from apdm_cli.plugin import hookimpl
class Spoiling(DreamBooth):
    '''Spoils what it was given.'''
    name = 'spoiling'
    def prepare(self, bench, config):
        bench.photos.mean.zero_()
        bench.photos.std.zero_()
        bench.subject.photos.pixels.zero_()
        return config
@hookimpl
def apdm_attacks():
    return [Spoiling()]
"""


def _last_artifact(place: Place, *options: str) -> str:
    """Digest of what the last cell of a command left."""
    last = rows(attack(place, "--no-control", "--json", *options))[-1]
    return folder_digest(Path(last["path"]) / "artifact")


def test_another_seed_transforms_the_photos_anew(place: Place) -> None:
    noisy = ("--plugin", "dreambooth", "--transform", "noise")
    second = _last_artifact(place, *noisy, "--seeds", "2")
    shutil.rmtree(place.root / "run" / "attacks")
    assert _last_artifact(place, *noisy, "--seed", "1") == second


def test_what_an_attack_does_with_the_photos_is_its_own(place: Place, tmp_path: Path) -> None:
    (tmp_path / "spoiling.py").write_text(PLUGIN)
    after = _last_artifact(
        place, "--plugin-file", str(tmp_path / "spoiling.py"), "--plugin", "spoiling",
        "--plugin", "dreambooth",
    )  # fmt: skip
    shutil.rmtree(place.root / "run" / "attacks")
    assert _last_artifact(place, "--plugin", "dreambooth") == after
