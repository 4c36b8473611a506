"""What other packages add to medcl: the objects that their entry points name."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from medcl.foundation.errors import UserError


def load_plugins(group: str) -> list[Any]:
    """Everything that entry points of the group name, in the order of their names, so that no machine's folder order shows.

    Raises UserError naming the package of one that cannot be loaded, and the way out.
    """
    found = []
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            found.append(entry.load())
        except Exception as error:  # whatever the other package's own code does while it is imported
            package = entry.dist.name if entry.dist else entry.module.partition(".")[0]
            raise UserError(
                f"package '{package}': its {group} '{entry.name}' = {entry.value} cannot be loaded "
                f"({type(error).__name__}: {error}); repair it, or pip uninstall {package}"
            ) from error
    return found
