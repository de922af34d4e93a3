"""A run: what its stages depend on, what is kept of it, and that one process at a time writes it.

What the stages themselves do is in the other rooms; `pipeline.stages` puts them in a row."""
