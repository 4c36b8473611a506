"""From rows of the store to batches: order, views and texts as pure functions of the step."""
