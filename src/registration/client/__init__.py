"""The offline-first client of the service."""
