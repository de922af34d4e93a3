"""The stages in order, the recipe, artifacts, training, evaluation, benchmark, report, prediction and the CLI."""
