"""Views that are safe and fast: what each modality forbids, parameters drawn first, one resampling, intensity last."""
