"""How every command talks: output, errors, exit codes, progress, interruption."""
