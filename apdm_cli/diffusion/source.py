"""What may stand after --model, as far as that can be said without opening anything."""

from __future__ import annotations

from pathlib import Path

from apdm_cli.errors import ApdmError, UsageError
from apdm_cli.paths import require_ordinary
from apdm_cli.pocket.profile import SOURCE as POCKET

FOLDER_HINT = "Point --model at a whole diffusers folder, such as save_pretrained writes."


def check_source(source: str, revision: str | None = None) -> None:
    """Refuse what is no model anywhere; quick, for torch takes seconds to import.

    Args:
        source: "pocket", a folder, a file or a hub id, as typed.
        revision: of a hub id.

    Raises:
        ApdmError: neither on this disk nor the name of something on the hub.
        UsageError: a revision of what is no hub id.
    """
    exists = source == POCKET or require_ordinary(Path(source).expanduser()).exists()
    if revision is not None and exists:
        raise UsageError(f"--revision {revision}: {source} is no hub id", "Leave it out.")
    if not exists and not _is_hub_id(source):
        raise ApdmError(f"There is no model at {source}", FOLDER_HINT)


def _is_hub_id(source: str) -> bool:
    """Whether `source` could be OWNER/NAME on the hub, should there be no such folder here."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~"))
