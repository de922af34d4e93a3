"""The parts of a recipe: one pydantic model each, with the keys, the allowed values and the defaults.

In: the values under one key of a recipe's YAML.
Out: a frozen part, or every problem in it by name; `pipeline.recipe` puts the parts together and reads the file.
"""
