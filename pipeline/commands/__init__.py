"""The commands of `t2t-edge`, one file each: its options, and what it runs.

In: the command line.
Out: the exit status, and one JSON document where --json is given.
"""
