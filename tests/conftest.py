"""No test reads or writes the settings and caches of whoever runs the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("APDM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("APDM_CONFIG", "")
        yield
