"""What every floor stands on: settings, types, geometry, randomness, processes, files, progress, errors."""
