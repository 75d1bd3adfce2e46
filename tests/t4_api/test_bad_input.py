"""Bad input: a precise refusal with details, nothing stored, and the node goes on."""

import re

import grpc
import pytest

from dfs.limits import KEY_BYTES_MAX, MESSAGE_BYTES_MAX, TARGET_BYTES_MAX, VALUE_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .conftest import refused

Code = grpc.StatusCode
BAD_KEYS = {
    "": "empty",
    "/a": "slash|starts",
    "a/": "slash|ends",
    "a//b": "//",
    ".": r"'\.'",
    "a/../b": r"'\.\.'",
    "a/./b": r"'\.'",
    "a\0b": "control",
    "a\nb": "control",
    "a\x7f": "control",
    "x" * 256: "255",
    "/".join(["x" * 250] * 5): f"{KEY_BYTES_MAX:,}",
    ".dfs/x": r"\.dfs",
    ".dfs": r"\.dfs",
}


def short(key):
    return repr(key[:12])


async def same_after(api, work):
    """Runs `work`; nothing may have been logged or stored."""
    before = api.applied(), api.running.store.state_hash
    found = await work
    assert (api.applied(), api.running.store.state_hash) == before
    return found


@pytest.mark.parametrize("key", BAD_KEYS, ids=short)
async def test_bad_key_is_refused_by_every_method(api, key):
    """A key is a relative UTF-8 path. One that is empty, starts or ends with a slash, has an empty
    component, `.` or `..`, a control character, a component of more than 255 bytes, more than
    1,024 bytes in all, or `.dfs` at the top is refused with INVALID_ARGUMENT by every method, and
    the text names the rule."""
    calls = [
        api.files.Put(pb.PutRequest(key=key, data=b"x")),
        api.files.Get(pb.GetRequest(key=key)),
        api.files.Stat(pb.StatRequest(key=key)),
        api.files.Delete(pb.DeleteRequest(key=key)),
        api.files.MakeDir(pb.MakeDirRequest(key=key)),
        api.files.Symlink(pb.SymlinkRequest(key=key, target="t")),
        api.files.Move(pb.MoveRequest(source=key, target="t")),
        api.files.Move(pb.MoveRequest(source="s", target=key)),
        api.files.Copy(pb.CopyRequest(source=key, target="t")),
        api.files.Copy(pb.CopyRequest(source="s", target=key)),
    ]
    if key:
        calls += [
            api.files.List(pb.ListRequest(key=key)).read(),
            api.files.Watch(pb.WatchRequest(key=key)).read(),
            api.files.History(pb.HistoryRequest(key=key)).read(),
        ]
    for call in calls:
        found = await same_after(api, refused(call))
        assert (found.code, found.reason, found.domain) == (
            Code.INVALID_ARGUMENT, "INVALID_ARGUMENT", "dfs",
        )
        assert found.retry_ms == 0
        assert found.text.startswith("bad key")
        assert re.search(BAD_KEYS[key], found.text)


async def test_bytes_that_are_no_message(api):
    for method in ("Put", "Get", "Stat", "Delete", "MakeDir", "Symlink", "Move", "Copy"):
        call = api.raw(f"/dfs.FileService/{method}", b"\x0a\xff\xff")
        found = await same_after(api, refused(call))
        assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert found.text == f"the request is not a well-formed message: {method}Request"
    found = await refused(api.raw("/dfs.ClusterService/Status", b"\x0a\xff\xff"))
    assert found.text == "the request is not a well-formed message: StatusRequest"


async def test_key_that_is_not_utf8(api):
    found = await refused(api.raw("/dfs.FileService/Get", b"\x0a\x02\xff\xfe"))
    assert found.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["/dfs.FileService/Nope", "/dfs.Nope/Put", "/dfs.fileservice/Put"])
async def test_unknown_method(api, path):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.raw(path, b"")
    assert caught.value.code() == Code.UNIMPLEMENTED


async def test_value_over_the_limit_names_limit_and_knob(api):
    """A value that is too large is refused with RESOURCE_EXHAUSTED; the text names the limit and
    its constant, and nothing is stored."""
    most = await api.files.Put(pb.PutRequest(key="most", data=bytes(VALUE_BYTES_MAX)))
    assert most.revision == api.applied()
    request = pb.PutRequest(key="more", data=bytes(VALUE_BYTES_MAX + 1))
    found = await same_after(api, refused(api.files.Put(request)))
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert f"{VALUE_BYTES_MAX:,}" in found.text
    assert "VALUE_BYTES_MAX" in found.text
    assert found.metadata == {"limit": "VALUE_BYTES_MAX"}


async def test_message_over_the_limit_names_limit_and_knob(api):
    request = pb.PutRequest(key="more", data=bytes(MESSAGE_BYTES_MAX))
    found = await same_after(api, refused(api.files.Put(request)))
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert found.metadata["limit"] == "MESSAGE_BYTES_MAX"
    limit = f"MESSAGE_BYTES_MAX ({MESSAGE_BYTES_MAX} bytes)"
    assert found.text.startswith(f"the message is over {limit}")


async def test_files_and_directories_do_not_mix(api):
    """A key is a file or a directory, never both: a file below a file, or over a directory, is
    refused with FAILED_PRECONDITION, and the text names the other key."""
    await api.files.Put(pb.PutRequest(key="dir/file", data=b"x"))
    for request, reason, named in (
        (pb.PutRequest(key="dir/file/below"), "NOT_A_DIRECTORY", "dir/file"),
        (pb.PutRequest(key="dir"), "IS_A_DIRECTORY", "dir"),
    ):
        found = await refused(api.files.Put(request))
        assert (found.code, found.reason) == (Code.FAILED_PRECONDITION, reason)
        assert named in found.text
    found = await refused(api.files.Get(pb.GetRequest(key="dir")))
    assert (found.code, found.reason) == (Code.FAILED_PRECONDITION, "IS_A_DIRECTORY")
    found = await refused(api.files.Delete(pb.DeleteRequest(key="dir")))
    assert (found.code, found.reason) == (Code.FAILED_PRECONDITION, "NOT_EMPTY")
    found = await refused(api.files.MakeDir(pb.MakeDirRequest(key="dir/file")))
    assert found.code == Code.FAILED_PRECONDITION


async def test_missing_key(api):
    for call in (
        api.files.Get(pb.GetRequest(key="none")),
        api.files.Stat(pb.StatRequest(key="none")),
        api.files.Delete(pb.DeleteRequest(key="none")),
        api.files.List(pb.ListRequest(key="none")).read(),
    ):
        found = await refused(call)
        assert (found.code, found.reason) == (Code.NOT_FOUND, "NOT_FOUND")
        assert "none" in found.text


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (pb.PutRequest(key="k", request_id=b"short"), "request id"),
        (pb.PutRequest(key="k", metadata=pb.Metadata(mode=0o10000)), "mode"),
        (pb.SymlinkRequest(key="k", target=""), "target"),
        (pb.SymlinkRequest(key="k", target="a\0b"), "target"),
        (pb.SymlinkRequest(key="k", target="x" * (TARGET_BYTES_MAX + 1)), "target"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_other_fields(api, request_, words):
    put = isinstance(request_, pb.PutRequest)
    call = api.files.Put(request_) if put else api.files.Symlink(request_)
    found = await same_after(api, refused(call))
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert words in found.text


async def test_a_bug_tells_the_caller_a_number_and_the_log_the_rest(api, monkeypatch, allow_logs):
    allow_logs("internal error [0-9a-f]{8}")

    def broken(*_):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(api.running.store, "get_answer", broken)
    monkeypatch.setattr(api.running.node, "members", broken)
    for call in (
        api.files.Get(pb.GetRequest(key="k")),
        api.cluster.Members(pb.MembersRequest()),
    ):
        found = await refused(call)
        assert (found.code, found.reason) == (Code.INTERNAL, "INTERNAL")
        assert "secret" not in found.text
        assert found.text.startswith("internal error ")
