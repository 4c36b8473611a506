"""Backbones that leave medcl: the folder, embeddings, and forms for other software, each proven by loading it back."""
