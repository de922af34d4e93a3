"""Ray: nodes as tasks with what they take of a machine, on this machine or on a cluster's, and trainings by successive halving.

In: the nodes of a plan, and which of them are there.
Out: their results in the points' runs, each with a line that says how it went.
"""
