"""Somebody else's training script as an attack: `apdm` runs the file as it is, and judges it.

    apdm attack RUN --plugin-file benchmarks/other_trainers.py --plugin diffusers-lora \
        --set script=train_dreambooth_lora.py --set photos=FOLDER

The scripts are not part of this project: `benchmarks/other_trainers.md` says where they are, and
how another one is added.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from apdm_cli.digests import file_digest
from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.plugin import Artifact, Attack, AttackConfig, Trainable, hookimpl

if TYPE_CHECKING:
    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_cli.plugin import Bench
    from apdm_cli.subject import Subject

# Runs the script under its own name. Scripts that were written for transformers 4 look for the
# parts of a text encoder in its `text_model`; since 5 they are in the encoder itself.
LAUNCH = """
import os, runpy, sys
flat = sys.argv.pop(1)
if flat:
    from transformers import CLIPTextModel
    if not hasattr(CLIPTextModel, "text_model"):
        CLIPTextModel.text_model = property(lambda encoder: encoder)
del sys.argv[0]
sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NEW_WORD = "<subject>"


class ScriptConfig(AttackConfig):
    """What a script is told; what else an attack can be told is the script's own business."""

    script: str = Field("", description="the training script")
    photos: str = Field("", description="folder with the photos and nothing else")
    arguments: str = Field("", description="further options of the script, as a shell takes them")
    prior_weight: float = Field(0.0, ge=0, le=0, description="class pictures are the script's own")

    def description(self) -> dict[str, Any]:
        """Script and photos by what they are, wherever they lie. UsageError where they are not."""
        script, photos = Path(self.script or "none"), Path(self.photos or "none")
        files = sorted(photos.iterdir()) if photos.is_dir() else []
        for option, there in (("script", script.is_file()), ("photos", bool(files))):
            if not there:
                raise UsageError(
                    f"{option}={getattr(self, option)!r} is not there",
                    f"Say where it is with --set {option}=PATH.",
                )
        return {
            **super().description(),
            "script": file_digest([script]),
            "photos": file_digest(files),
        }


class LoraScriptConfig(ScriptConfig):
    """The same, of a script for LoRA."""

    rank: int = Field(4, ge=1, description="rank of the adapters")


class Script(Attack):
    """An attack that is a process of its own.

    Attributes:
        leaves: the file that the script writes into its output folder.
        kind: of the artifact that this file is.
        flat: whether the script looks for `text_model` in a text encoder.
    """

    Config = ScriptConfig
    leaves: ClassVar[str]
    kind: ClassVar[str]
    flat: ClassVar[bool] = False

    @abstractmethod
    def options(self, bench: Bench, config: Any) -> dict[str, Any]:
        """Options of the script by name, beside those that all of diffusers' have."""

    def trainable(self, model: DiffusionModel, subject: Subject, config: Any) -> Trainable:
        """Nothing trains in this process."""
        raise NotImplementedError(f"{self.name} trains in a process of its own")

    def word(self, bench: Bench) -> str:
        """What stands for the subject in prompts."""
        return bench.subject.identifier

    def run(self, bench: Bench, config: Any) -> Artifact:
        """Run the script on the folder of the attacked model; keep the file that it leaves."""
        folder = bench.base.origin
        if folder is None or not folder.is_dir() or Path(bench.base.ref.source).is_file():
            raise ApdmError(
                f"{self.name} needs a model in a diffusers folder",
                "Save it with save_pretrained, and protect that folder.",
            )
        bench.prompt_word, bench.steps_taken = self.word(bench), config.steps
        with tempfile.TemporaryDirectory() as written:
            told = {
                "pretrained_model_name_or_path": folder,
                "output_dir": written,
                "resolution": bench.base.resolution,
                "max_train_steps": config.steps,
                "learning_rate": config.learning_rate,
                "train_batch_size": config.batch_size,
                "seed": bench.streams.seed,
                **self.options(bench, config),
            }
            options = [text for name, value in told.items() for text in (f"--{name}", str(value))]
            launch = [sys.executable, "-c", LAUNCH, "flat" if self.flat else "", config.script]
            self._start([*launch, *options, *shlex.split(config.arguments)])
            left = Path(written) / self.leaves
            if not left.is_file():
                raise ApdmError(f"{self.name}: the script left no {self.leaves}")
            shutil.copy(left, bench.artifact_folder)
        return Artifact(self.kind, bench.artifact_folder)

    def _start(self, command: list[str]) -> None:
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
        ended = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or ["nothing"]
            raise ApdmError(
                f"{self.name}: the script ended with exit code {ended.returncode}: {said[-1]}"
            )


class DiffusersLora(Script):
    """diffusers' examples/dreambooth/train_dreambooth_lora.py, unchanged."""

    name = "diffusers-lora"
    Config = LoraScriptConfig
    leaves, kind = "pytorch_lora_weights.safetensors", "lora"
    # As the suite `wild` scales the example.
    profiles: ClassVar = {"pocket": {"steps": 62, "learning_rate": 2e-3, "batch_size": 1}}

    def options(self, bench: Bench, config: Any) -> dict[str, Any]:
        """Photos under the prompt with the identifier, and the rank."""
        return {
            "instance_data_dir": config.photos,
            "instance_prompt": bench.subject.personal_prompt,
            "rank": config.rank,
        }


class DiffusersTextualInversion(Script):
    """diffusers' examples/textual_inversion/textual_inversion.py, unchanged."""

    name = "diffusers-textual-inversion"
    leaves, kind, flat = "learned_embeds.safetensors", "embedding", True
    profiles: ClassVar = {"pocket": {"steps": 188, "learning_rate": 4e-2, "batch_size": 4}}

    def word(self, bench: Bench) -> str:
        """The new word."""
        return NEW_WORD

    def options(self, bench: Bench, config: Any) -> dict[str, Any]:
        """Photos, and a new word that starts as the class noun."""
        return {
            "train_data_dir": config.photos,
            "placeholder_token": NEW_WORD,
            "initializer_token": bench.subject.class_noun,
        }


@hookimpl
def apdm_attacks() -> list[Attack]:
    """The scripts that `apdm` knows how to call."""
    return [DiffusersLora(), DiffusersTextualInversion()]
