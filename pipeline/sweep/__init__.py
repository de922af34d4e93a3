"""A sweep: many runs of one recipe with other values, which share what is equal, and which of their engines to take.

In: a sweep file (a base recipe, axes or a list of points), a budget.
Out: an ordinary run for each point, and the page, table, JSON and CSV that compare them.
"""
