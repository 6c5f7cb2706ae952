"""Whose face the pictures show: ISM and FDFR of Anti-DreamBooth (arXiv 2303.15433, section 5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apdm_cli.extension.metric import Metric, MetricUnavailable, Pictures, Score
from apdm_metrics.lookup import given
from apdm_metrics.scores import mean_score, nothing_to_score, usable

if TYPE_CHECKING:
    import torch

    from apdm_cli.diffusion.model import DiffusionModel
    from apdm_metrics.faces.face_api import Faces
    from apdm_metrics.faces.insightface import PackFaces

KEY = "identity"


class FaceMetric(Metric):
    """A metric on the largest face of every picture, as Anti-DreamBooth's own code takes it.

    `--weights identity=FOLDER` gives face-api's folder `model`, or a model pack of insightface.
    Only scored when it is named: not every subject is a person.
    """

    optional = True
    needs = frozenset({"photos"})
    reads = (KEY,)
    faces: Faces | PackFaces

    def prepare(self, model: DiffusionModel, device: torch.device) -> None:
        from apdm_metrics.faces.face_api import GET_THEM, load_faces
        from apdm_metrics.faces.insightface import is_pack, load_pack

        folder = given(self.weights, KEY)
        if folder is None:
            raise MetricUnavailable(f"no weights that know faces are here; {GET_THEM}")
        self.faces = load_pack(folder) if is_pack(folder) else load_faces(folder, device)


class Identity(FaceMetric):
    """ISM: how near the faces in the pictures are to the mean face of the photos.

    ISM is the mean similarity of the faces to the average embedding of the photos' faces, over
    the pictures in which a face is found. With insightface it is the paper's own: ArcFace's
    cosine. dlib's descriptors, face-api's, are told apart by their Euclidean distance d, not by an
    angle: the similarity is 1 − d, and 1 − 0.6 its own limit of one person.
    """

    name = "identity"
    title = "The same person"
    explanation = (
        "Similarity of the face in a picture to the mean face of the photos, over the pictures in "
        "which a face is found (ISM); lower protects better. With face-api it is 1 − dlib's "
        "distance, and above 0.4 it is the same person by dlib's threshold; with insightface it is "
        "ArcFace's cosine. Read it beside fdfr, the pictures without a face."
    )
    kind = "similarity"
    better = "lower"
    better_for_others = "higher"
    leads = True

    def score(self, pictures: Pictures) -> Score:
        import torch

        assert pictures.photos is not None
        backend, whole = self.faces.backend, len(pictures.images)
        known = [one for one in self.faces.descriptors(pictures.photos) if one is not None]
        if not known:
            why = f"no face was found in any of the {len(pictures.photos)} photos"
            return nothing_to_score(self, backend, whole, why)
        images = pictures.images[usable(pictures.images)]
        found = [one for one in self.faces.descriptors(images) if one is not None]
        if not found:
            why = f"no face was found in any of the {whole} pictures"
            return nothing_to_score(self, backend, whole, why)
        likeness = self.faces.likeness(torch.stack(found), torch.stack(known))
        return mean_score(self, likeness, whole - len(found), backend)


class FaceDetectionFailureRate(FaceMetric):
    """FDFR: the share of pictures in which no face is found."""

    name = "fdfr"
    title = "Pictures without a face"
    explanation = (
        "Share of the pictures in which no face is found (face detection failure rate). 0: every "
        "picture shows a face, whoever's it is."
    )
    kind = "quality"
    better = "higher"
    better_for_others = "lower"

    def score(self, pictures: Pictures) -> Score:
        import torch

        images = pictures.images[usable(pictures.images)]
        skipped = len(pictures.images) - len(images)
        if not len(images):
            return nothing_to_score(self, self.faces.backend, skipped)
        failed = [float(box is None) for box in self.faces.boxes(images)]
        values = torch.tensor(failed, dtype=torch.float64)
        return mean_score(self, values, skipped, self.faces.backend)
