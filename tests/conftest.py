"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


def _shared_data() -> Path | None:
    """Folder with the real events: ``XNOWCAST_SHARED_DATA`` or ``../shared/data`` beside the checkout."""
    named = os.environ.get("XNOWCAST_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Path to the real radar events; the test is skipped where they are absent."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("the real radar events (../shared/data) are not on this checkout")
    return folder
