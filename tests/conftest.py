"""Fixtures for every test."""

from tests.databases import database, database_url, postgres_server, postgres_url, sqlite_url

__all__ = ["database", "database_url", "postgres_server", "postgres_url", "sqlite_url"]
