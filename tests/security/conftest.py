"""The application of `tests/api`, for attacks on it."""

from tests.api.conftest import api, as_beta, clip, edit, http, make_clip, png, problem, settings, upload, worker

__all__ = ["api", "as_beta", "clip", "edit", "http", "make_clip", "png", "problem", "settings", "upload", "worker"]
