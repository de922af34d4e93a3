"""What goes into a network and how its ranges are found: preprocessing, image folders, calibration sets, policies."""
