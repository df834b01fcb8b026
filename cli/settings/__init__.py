"""The settings: one model behind the file, the environment, the flags and the documentation."""
