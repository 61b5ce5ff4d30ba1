"""One running server per test module; tests that need other settings start their own."""

from collections.abc import Iterator

import pytest

from tests.serving import RunningServer, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the default settings of `tests.serving`."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running
