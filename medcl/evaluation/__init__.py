"""Studies: how well a backbone serves a task, and how many labels it saves."""
