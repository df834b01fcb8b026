"""Stores: where accounts, sessions and mail are kept."""
