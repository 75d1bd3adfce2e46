"""Why a benchmark cannot go on."""


class BenchError(Exception):
    """One sentence for the person who started it."""
