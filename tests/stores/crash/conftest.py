"""Real engines for the tests of this folder."""

from postgres_engine import start_postgres  # noqa: F401
from valkey_engine import start_valkey  # noqa: F401
