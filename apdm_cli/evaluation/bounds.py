"""What similarity could be at all: the class without an attack below, the autoencoder above."""

from __future__ import annotations

from apdm_cli.diffusion.pictures import from_unit
from apdm_cli.evaluation.profiles import class_images_of
from apdm_cli.evaluation.scoring import Panel, photo_pictures
from apdm_cli.evaluation.session import Session
from apdm_cli.evaluation.utility import SEEDS_A, class_topic, seeds
from apdm_cli.extension.metric import Pictures
from apdm_cli.scores import Role, Score, ScoreRow
from apdm_cli.subject import Subject

FLOOR, CEILING = "class pictures, no attack", "the photos through the autoencoder"


def bound_rows(session: Session, panel: Panel, subject: Subject) -> list[ScoreRow]:
    """A floor row and a ceiling row.

    Floor: class pictures of the unattacked original against the photos. Ceiling: reconstructions
    of the photos against the photos. Those pictures are the photos, more or less: they are
    scored in memory and never written.
    """
    photos = photo_pictures(subject.photos)
    model = session.verified("a metric")
    rebuilt = from_unit(model.decode(model.encode_pixels(subject.photos.pixels).mean))
    found = panel.scores(Pictures(images=rebuilt, photos=photos), "photos")
    rows = [_row("ceiling", CEILING, None, found)]
    if session.arms.has_original:
        settings = session.settings
        count = class_images_of(settings, model)
        prompts = class_topic(subject.class_noun, count).prompts
        ordinary, folder = session.draw_model(
            "original", prompts, seeds(SEEDS_A, count, settings.seed), FLOOR
        )
        # As many as every attack draws: the same sample size on both ends of the scale.
        found = panel.scores(Pictures(images=ordinary[: settings.images], photos=photos), "photos")
        rows.insert(0, _row("floor", FLOOR, folder, found))
    return rows


def _row(role: Role, label: str, images: str | None, scores: tuple[Score, ...]) -> ScoreRow:
    return ScoreRow(role=role, arm="original", label=label, images=images, scores=scores)
