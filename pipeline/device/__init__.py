"""The bundle for a Jetson or another device: how the host writes it, and its commands on the device.

In: a finished run whose graphs passed the gate.
Out: a folder that builds, checks, measures and predicts with numpy, OpenCV and an engine runtime alone.
"""
