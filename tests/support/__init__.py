"""Helpers and fixtures that several test modules use; no test module imports another."""
