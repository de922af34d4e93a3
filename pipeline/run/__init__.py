"""A run: what its stages depend on, what is kept of it, and that one process at a time writes it.

In: a recipe and the run's folder.
Out: what is bound to fail, what has to run and what is kept; what the stages do is in other rooms, `pipeline.stages` orders them.
"""
