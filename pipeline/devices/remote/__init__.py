"""What runs on a device for the host: sent as text over the connection, nothing is installed there. Standard library alone.

In: a request as JSON on stdin, and what belongs to it behind.
Out: answers as lines of JSON; a session's folder below the home: the bundle, its log, its state and its results.
"""
