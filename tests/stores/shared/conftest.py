"""Real engines for the tests of this folder."""

from postgres_engine import database, postgres, start_postgres  # noqa: F401
