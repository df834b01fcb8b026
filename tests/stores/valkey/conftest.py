"""Real engines for the tests of this folder."""

from valkey_engine import start_cluster, start_valkey, valkey, valkey_cluster  # noqa: F401
