"""setuptools' build backend, but a wheel holds nothing of an earlier build.

setuptools copies modules into ``build/lib`` and packs all that lies there, also what an older tree
left behind. Only that folder is removed: beside it, strict editable installs have their links.
"""

import shutil
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 - the rest of the backend
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = ["build_wheel"]


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, str | list[str] | None] | None = None,
    metadata_directory: str | None = None,
) -> str:
    """Build a wheel of what the tree holds now; return its file name."""
    shutil.rmtree(Path("build", "lib"), ignore_errors=True)
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))
