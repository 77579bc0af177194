"""Diagnosis: measure which kind of transfer a data set needs, and choose the recipe by the measurements."""
