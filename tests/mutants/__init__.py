"""Bugs that the tests must notice: `make mutants` puts each into a copy of the code and looks."""
