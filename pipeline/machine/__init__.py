"""What this machine is and has: CPU, GPU, Jetson, installed versions, power, memory, and `doctor`, which prints them.

In: the machine itself, and an engine that runs on it.
Out: facts for reports, and readings of power and memory while an engine runs.
"""
