"""From a diffusers folder to the components of any pipeline, part by part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from apdm_cli.diffusion.family import Components
from apdm_cli.errors import ApdmError, first_sentence
from apdm_cli.runs.manifest import read_json
from apdm_families.checks import check_embeddings, check_finite
from apdm_families.diffusers_folder import FOLDER_HINT, LOADING_ERRORS, QuietLibraries, load_part


def open_pipeline(
    folder: Path,
    kind: Any,
    networks: Mapping[str, Any],
    *,
    others: Collection[str],
    optional: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
) -> Components:
    """The components of a folder, networks in float32 on the CPU, without a network.

    Args:
        kind: diffusers' class of the pipeline.
        networks: class of every network, by the name of its folder.
        others: tokenizers and schedulers.
        optional: names of those that may be absent; they are None then.
        given: networks that are opened already: their folders are not looked at.

    Raises:
        ApdmError: the part is named that is missing, broken or pickled.
    """
    index, given = read_json(folder / "model_index.json", foreign=True), dict(given or {})
    named = {name for name, value in index.items() if isinstance(value, list) and value[0]}
    absent = {name for name in optional if name not in named or not (folder / name).is_dir()}
    wanted = [name for name in (*networks, *others) if name not in absent and name not in given]
    missing = [name for name in wanted if not (folder / name).is_dir()]
    if missing:
        raise ApdmError(f"{folder} lacks its part {', '.join(missing)}", FOLDER_HINT)
    parts: Components = {**given, **dict.fromkeys(absent)}
    with QuietLibraries():
        for name in wanted:
            if name in networks:
                parts[name] = load_part(folder / name, networks[name])
        try:
            pipeline = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, **parts
            )
        except LOADING_ERRORS as error:
            raise ApdmError(
                f"{folder} cannot be loaded: {first_sentence(error)}", FOLDER_HINT
            ) from error
    return dict(pipeline.components)


def check_networks(components: Components, source: str) -> None:
    """Refuse weights that are NaN, and tokenizers that know more words than their encoders."""
    for name, part in components.items():
        if hasattr(part, "state_dict"):
            check_finite(part, name, source)
        if name.startswith("tokenizer") and part is not None:
            encoder = components[name.replace("tokenizer", "text_encoder")]
            check_embeddings(part, int(encoder.config.vocab_size), source)
