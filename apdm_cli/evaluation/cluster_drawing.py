"""`apdm evaluate --cluster`: the pictures by workers of a Ray cluster.

Where machines do not see the folder of runs, a task draws some batches of one model in a folder of
its own machine, and the pictures are put into place here (`evaluation.sending`). The command itself
makes the scores: they are what needs photos, which therefore stay where they are.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from typing import Any

from apdm_cli.devices import resolve_device, resolve_dtype
from apdm_cli.diffusion.pictures import read_png
from apdm_cli.errors import ApdmError
from apdm_cli.evaluation.sending import (
    Part,
    attacked_model,
    draw_part,
    luggage_of,
    parts_of,
    put_pictures,
    sent_part,
    sent_share,
    size_of_attacked,
)
from apdm_cli.evaluation.session import PictureSet, Session
from apdm_cli.evaluation.workers import DrawingShare, files_of
from apdm_cli.harness.cluster import Cluster, Place, Unheard, workers_of
from apdm_cli.harness.errands import Errands, told, working
from apdm_cli.harness.luggage import Files, Luggage
from apdm_cli.runs.cluster import home_of
from apdm_cli.runs.disk import format_bytes
from apdm_cli.runs.lock import POLL_SECONDS

EACH = 2  # errands of a worker, about: fewer open models less often, more end together


def draw_on_cluster(cluster: Cluster, share: DrawingShare, session: Session) -> None:
    """Wait until the workers of `cluster` have drawn what can be drawn of `share`.

    Args:
        session: of the command, which draws nothing.

    Raises:
        ApdmError: no cluster answers, or has what was asked for; a machine cannot take part; the
            workers have ended before everything was drawn.
    """
    progress = session.progress
    wanted = [file for one in share.sets for file in files_of(one).files]
    left = [file for file in wanted if read_png(file) is None]
    batches = sum(len(files_of(one).unfinished()) for one in share.sets)

    def errands(ray: Any, place: Place) -> PictureErrands:
        return PictureErrands(ray, cluster, share, place, session)

    with working(cluster, share, share.root, batches, errands, progress.said) as workers:
        while left:
            gone = workers.at_work()  # first: what they have just drawn is then seen
            still = [file for file in left if read_png(file) is None]
            progress.advance(len(left) - len(still))
            left = still
            if left and gone is not None:
                if workers.succeeded:
                    return  # what is missing cannot be drawn
                pictures = "1 picture is" if len(left) == 1 else f"{len(left)} pictures are"
                raise ApdmError(
                    f"All workers have ended, and {pictures} not drawn"
                    + (f": {gone}" if gone else ""),
                    "The same command goes on with what is left.",
                )
            time.sleep(POLL_SECONDS)


class PictureErrands(Errands[Part]):
    """Some batches that one model draws, each.

    Two evaluations that want the same pictures of the original at once may both have them drawn:
    they are the same, and each is put into place as a whole.
    """

    def __init__(
        self, ray: Any, cluster: Cluster, share: DrawingShare, place: Place, session: Session
    ) -> None:
        count, _ = workers_of(ray, cluster)
        parts = parts_of(share.sets, EACH * count)
        super().__init__(ray, cluster, place, parts, _errand, session.progress.said)
        self._share = sent_share(share)
        luggage = luggage_of(share, session.arms)
        self._luggage = ray.put(luggage)
        self._packed: tuple[tuple[PictureSet, ...], Any] | None = None
        self.sends = luggage.described + _and_attacked(share.sets)

    def given(self, part: Part) -> tuple[Any, ...] | None:
        """With its attacked model, unless that cannot be read: whoever scores it is told why."""
        left = part.left
        if not left.batches:
            return ()
        try:
            model = self._model_of(part)
            sent = pickle.dumps((self._share, sent_part(left)))
        except ApdmError:
            return ()
        return sent, self._luggage, model

    def put(self, part: Part, found: Files) -> None:
        """Keep the pictures."""
        put_pictures(part, found)

    def _model_of(self, part: Part) -> Any:
        """Its attacked model, put where all machines find it; once for parts in a row."""
        if self._packed is None or self._packed[0] is not part.sets:
            self._packed = None  # the last is not needed here any more
            self._packed = part.sets, self._ray.put(attacked_model(part))
        return self._packed[1]


def _and_attacked(sets: Sequence[PictureSet]) -> str:
    count, size = size_of_attacked(sets)
    if not count:
        return ""
    return (
        ". Attacked models are sent as well, each to the machines that draw with it "
        f"({count}, {format_bytes(size)}): they can draw whom they were taught"
    )


@told
def _errand(
    place: Place,
    sent: bytes,
    luggage: Luggage,
    model: Files,
    device: str,
    dtype: str,
) -> tuple[str, Any]:
    """Draw some pictures.

    Returns why its machine cannot, or "", and then their files, or True.
    """
    if refused := place.differs():
        return refused, True
    target = resolve_device(device)
    share: DrawingShare
    part: Part
    share, part = pickle.loads(sent)  # not before the versions are known to be the same
    share = share.in_precision(resolve_dtype(dtype, target))
    home = home_of(place.name)
    return "", draw_part(share, part, luggage, model, home, target, Unheard())
