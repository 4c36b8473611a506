"""A tiny package that extends medcl without touching it; see pyproject.toml for the entry points."""
