"""Real engines for the tests of this folder."""

from postgres_engine import database, postgres, start_postgres, store_url  # noqa: F401
from valkey_engine import start_cluster, start_valkey, valkey, valkey_cluster  # noqa: F401
