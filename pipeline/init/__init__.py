"""`t2t-edge init`: a recipe for a folder of images, written by what is found in the folder and on this machine.

In: a folder of images, by class, with splits or without.
Out: a commented recipe that runs as it is, and beside the images a folder of links where splits had to be made.
"""
