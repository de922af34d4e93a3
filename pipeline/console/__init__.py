"""What every command prints and returns: numbers as text, progress, error messages, exit status, one JSON document, a run's log.

In: values, and the exceptions that a command raises.
Out: text on the terminal and in the run's log, and the exit status.
"""
