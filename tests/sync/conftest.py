"""One service for all tests of this folder."""

from tests.api.conftest import clock, desk, service

__all__ = ["clock", "desk", "service"]
