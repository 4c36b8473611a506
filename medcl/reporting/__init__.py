"""Pages for people: one self-contained HTML file from runs and studies."""
