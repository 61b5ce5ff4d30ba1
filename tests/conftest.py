"""Fixtures for every test."""

from hypothesis import settings

from tests.databases import database, database_url, postgres_server, postgres_url, sqlite_url

__all__ = ["database", "database_url", "postgres_server", "postgres_url", "sqlite_url"]

# How long an example takes says nothing: tests share their cores with others.
settings.register_profile("genserve", deadline=None)
settings.load_profile("genserve")
