"""Databases of MLflow for tests: to make the tables takes seconds, so they are made once and copied."""

from __future__ import annotations

from flows.drill.databases import new_database

__all__ = ["new_database"]
