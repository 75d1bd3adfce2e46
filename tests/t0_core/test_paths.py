"""Keys: every rule is named, and what is accepted cannot leave the tree."""

import os.path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.errors import InvalidArgument
from dfs.limits import COMPONENT_BYTES_MAX, KEY_BYTES_MAX, TARGET_BYTES_MAX
from dfs.paths import check_key, check_target, is_below, parent

GOOD = [
    "a", "a/b/c", ".hidden", "..three", "a b", "-", "x.dfs", ".dfsx", "a/.dfs", "ä/ö/漢字", "a\\b",
    "%2e%2e", "\u2028", "x" * COMPONENT_BYTES_MAX, "/".join(["d" * 127] * 8), "ä" * 127, "~",
]  # fmt: skip

BAD = [
    ("", "empty"),
    ("/a", "starts with '/'"),
    ("a/", "ends with '/'"),
    ("a//b", "'//'"),
    (".", "'.'"),
    ("..", "'..'"),
    ("a/./b", "'.'"),
    ("a/../b", "'..'"),
    ("a/..", "'..'"),
    ("a\0b", "control character"),
    ("a\nb", "control character"),
    ("a\x7f", "control character"),
    ("a\x85", "control character"),
    ("\ud800", "not UTF-8"),
    (".dfs", "reserved"),
    (".dfs/x", "reserved"),
    ("x" * (COMPONENT_BYTES_MAX + 1), "component has 256 bytes"),
    ("a/" + "ä" * 128, "component has 256 bytes"),
    ("/".join(["d" * 204] * 5) + "/d", "1,026 bytes"),
]  # fmt: skip


@pytest.mark.parametrize("key", GOOD)
def test_a_good_key_passes(key):
    assert check_key(key) is None


@pytest.mark.parametrize(("key", "rule"), BAD)
def test_a_bad_key_is_refused_with_the_rule_that_it_breaks(key, rule):
    with pytest.raises(InvalidArgument) as refusal:
        check_key(key)
    assert rule in refusal.value.text
    assert "\n" not in refusal.value.text


def test_the_longest_key_passes_and_one_more_byte_does_not():
    key = "/".join(["d" * 203] * 4) + "/"
    key += "d" * (KEY_BYTES_MAX - len(key))
    assert check_key(key) is None
    with pytest.raises(InvalidArgument, match=r"1,025 bytes, the limit is 1,024"):
        check_key(key + "d")


@given(st.text(alphabet=st.sampled_from("ab.~/\0\n \\é"), max_size=12) | st.text(max_size=40))
def test_an_accepted_key_stays_below_the_root(key):
    try:
        check_key(key)
    except InvalidArgument:
        return
    assert os.path.normpath(os.path.join("/root", key)) == f"/root/{key}"
    assert 0 < len(key.encode()) <= KEY_BYTES_MAX
    assert all(0 < len(part.encode()) <= COMPONENT_BYTES_MAX for part in key.split("/"))
    assert "\0" not in key


@given(st.text(alphabet=st.sampled_from("ab./-_ 9"), max_size=300))
def test_the_fast_check_accepts_nothing_that_the_rules_refuse(key):
    def by_the_rules(key):
        parts = key.split("/")
        return (
            all(part not in ("", ".", "..") and len(part) <= COMPONENT_BYTES_MAX for part in parts)
            and parts[0] != ".dfs"
            and len(key) <= KEY_BYTES_MAX
        )

    try:
        check_key(key)
        accepted = True
    except InvalidArgument:
        accepted = False
    assert accepted == by_the_rules(key)


@pytest.mark.parametrize("target", ["x", "../up", "/etc/passwd", "a\nb", "x" * TARGET_BYTES_MAX])
def test_a_target_may_be_any_path(target):
    assert check_target(target) is None


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("\ud800", "UTF-8"),
        ("x" * (TARGET_BYTES_MAX + 1), "4,096 bytes, the limit is 4,095"),
    ],
)
def test_a_target_that_no_link_can_hold_is_refused(target, rule):
    with pytest.raises(InvalidArgument, match=rule):
        check_target(target)


def test_parent_and_below():
    assert [parent(key) for key in ("a/b/c", "a/b", "a")] == ["a/b", "a", ""]
    assert is_below("a/b", "a")
    assert is_below("a", "")
    assert not is_below("ab", "a")
    assert not is_below("a", "a")
