"""What a sweep has to make: its points, and which of their stages are equal.

In: the sweep's file, its base recipe, what its runs already have.
Out: a recipe for each point, and the nodes: a stage of one or more points each, with those that it reads.
"""
