"""Where weights are looked for, in which order, and what is said when they are nowhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from apdm_cli.diffusion.model import DiffusionModel
from apdm_cli.extension.metric import MetricUnavailable, Pictures
from apdm_metrics import lookup
from apdm_metrics.perceptual import Lpips
from tests.metrics.material import noisy, pictures

URL = "https://example.invalid/weights-abc.pt"


def test_a_given_file_wins_whatever_its_format(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0)}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        found, file = lookup.torch_file(URL, "x", tmp_path / name)
        assert torch.equal(found["a"], tensors["a"])
        assert file == tmp_path / name


def test_torch_hubs_cache_is_used_without_the_network(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    cache.mkdir(parents=True)
    torch.save({"a": torch.ones(1)}, cache / "weights-abc.pt")
    found, file = lookup.torch_file(URL, "x")
    assert found["a"].item() == 1
    assert file == cache / "weights-abc.pt"
    assert capsys.readouterr().out == ""


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(MetricUnavailable):
        lookup.torch_file(URL, "x", tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_offline_says_so_and_how_to_give_the_file() -> None:
    with pytest.raises(
        MetricUnavailable, match=r"weights-abc\.pt.*HF_HUB_OFFLINE is set.*--weights x=PATH"
    ):
        lookup.torch_file(URL, "x")
    with pytest.raises(MetricUnavailable, match=r"someone/model.*HF_HUB_OFFLINE is set"):
        lookup.hub_folder("someone/model", ("config.json",))


def test_a_host_without_an_address_costs_no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(lookup, "getproxies", dict)

    def nowhere(*_: object) -> None:
        raise OSError("name or service not known")

    monkeypatch.setattr(lookup.socket, "getaddrinfo", nowhere)
    with pytest.raises(MetricUnavailable, match=r"no network: example\.invalid has no address"):
        lookup.torch_file(URL, "x")


def test_lpips_says_what_is_missing(tiny_model: DiffusionModel) -> None:
    with pytest.raises(MetricUnavailable, match=r"lpips_weights\.pt"):
        Lpips().prepare(tiny_model, torch.device("cpu"))


def test_lpips_scores_pictures_against_their_own_partners() -> None:
    """With a small stand-in for VGG: the pairing, the counts and the direction."""
    from piq.perceptual import ContentLoss

    from apdm_cli.extension.metric import Backend

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU())
    metric = Lpips()
    metric._network = ContentLoss(
        network, layers=["1"], weights=[torch.ones(1, 8, 1, 1)], distance="mse",
        reduction="none", normalize_features=True,
    )  # fmt: skip
    metric._backend, metric._device = Backend("stand-in", "0" * 64), torch.device("cpu")
    images = pictures(3)
    same = metric.score(Pictures(images, pairs=images))
    assert same.value == pytest.approx(0, abs=1e-6)
    values = [metric.score(Pictures(noisy(images, s), pairs=images)).value for s in (5, 20, 60)]
    assert 0 < values[0] < values[1] < values[2]
    images[2] = 0
    assert metric.score(Pictures(images, pairs=images)).skipped == 1


def test_lpips_is_piqs_own_filled_from_files(
    tiny_model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With VGG's layers at a sixteenth of their width: random weights, through both doors."""
    import piq.perceptual
    import torchvision.models
    from torchvision.models.vgg import VGG, make_layers

    widths = (4, 4, "M", 8, 8, "M", 16, 16, 16, "M", 32, 32, 32, "M", 32, 32, 32, "M")

    def narrow(**_: object) -> torch.nn.Module:
        # Made on "meta": the head, which a VGG has and nobody uses here, would be half a gigabyte.
        with torch.device("meta"):
            network = VGG(make_layers(list(widths)), init_weights=False)
        network.classifier = torch.nn.Identity()
        return network.to_empty(device="cpu")

    def filled(**_: object) -> torch.nn.Module:
        network = narrow()
        network.load_state_dict(weights)
        return network

    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(value.shape, generator=generator) / 4
        for name, value in narrow().state_dict().items()
    }
    head = [torch.rand(1, width, 1, 1, generator=generator) for width in (4, 8, 16, 32, 32)]
    monkeypatch.setattr(torchvision.models, "vgg16", narrow)
    torch.save(weights, tmp_path / "vgg16-397923af.pth")
    torch.save(head, tmp_path / "lpips_weights.pt")
    metric = Lpips()
    metric.weights = {"lpips": str(tmp_path)}
    metric.prepare(tiny_model, torch.device("cpu"))
    images, pairs = pictures(10), pictures(10, seed=1)
    images[3] = 9

    score = metric.score(Pictures(images, pairs=pairs))

    monkeypatch.setattr(piq.perceptual, "vgg16", filled)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: head)
    theirs = piq.LPIPS(reduction="none")
    kept = [place for place in range(10) if place != 3]
    sides = (side[kept].permute(0, 3, 1, 2) / 255 for side in (images, pairs))
    assert score.per_picture == pytest.approx(theirs(*sides).tolist(), rel=1e-5)
    assert (score.n, score.skipped, score.backend.name) == (9, 1, "piq-lpips-vgg16")
    nothing = metric.score(Pictures(images[3:4], pairs=pairs[3:4]))
    assert math.isnan(nothing.value) and (nothing.n, nothing.skipped) == (0, 1)
