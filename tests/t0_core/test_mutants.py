"""The list of bugs that the tests must notice, as far as it can be wrong without running it."""

from pathlib import Path

import pytest
from mutants.table import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_changes_one_place_and_names_tests_that_are_there(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.before) == 1
    assert mutant.before != mutant.after
    first = mutant.tests[0]
    assert first == "rust" or (ROOT / first.split("::")[0]).exists()


def test_every_mutant_has_a_name_of_its_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
