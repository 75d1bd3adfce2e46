"""The hosts as curl's HTTP/2 sees them: requests that no gRPC library would make."""

import asyncio
import shutil
import subprocess
import threading
from dataclasses import dataclass

import pytest

from dfs.proto import dfs_pb2 as pb

from .conftest import TLS, WIRE

WAIT_S = 10
PUT = pb.PutRequest(key="k", data=b"v").SerializeToString()


@pytest.fixture(scope="module", autouse=True)
def curl_is_here():
    """Skips visibly where there is no curl, or one without HTTP/2."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    about = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True)
    if "HTTP2" not in about.stdout:
        pytest.skip("this curl has no HTTP/2")


@dataclass
class Answer:
    """What curl got; trailers stand among the headers."""

    http: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self):
        return int(self.headers["grpc-status"])


def framed(message, flag=0):
    return bytes([flag]) + len(message).to_bytes(4, "big") + message


async def curl(api, body, *more, method="Put", kind="application/grpc", version=""):
    """POSTs a body. `more`: headers and other arguments."""
    path = f"/dfs.FileService/{method}"
    if api.host == "tls":
        url = f"https://{api.address}{path}"
        where = [version or "--http2", "--cacert", str(TLS / "ca.pem")]
    elif api.host == "wire":
        url, where = f"http://{api.address}{path}", [version or "--http2-prior-knowledge"]
    else:
        socket = api.address.removeprefix("unix:")
        url = f"http://localhost{path}"
        where = [version or "--http2-prior-knowledge", "--unix-socket", socket]
    headers = [part for text in more for part in ("-H", text)]
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "-i", "--max-time", str(WAIT_S), *where, "--data-binary", "@-",
        "-H", f"content-type: {kind}", "-H", "te: trailers", *headers, url,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    out, error = await process.communicate(body)
    assert process.returncode == 0, error.decode()
    head, _, rest = out.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    # curl prints trailers behind the body.
    body, _, trailers = rest.partition(b"grpc-status: ")
    if trailers:
        text = "grpc-status: " + trailers.decode().rstrip("\r\n")
        headers |= dict(line.split(": ", 1) for line in text.split("\r\n"))
    return Answer(int(lines[0].split()[1]), headers, body)


async def test_a_message_is_answered_with_a_status_in_the_trailers(api):
    found = await curl(api, framed(PUT))
    assert (found.http, found.code) == (200, 0)
    assert found.headers["content-type"] == "application/grpc"
    answer = pb.PutResponse.FromString(found.body[5:])
    assert found.body == framed(answer.SerializeToString())
    assert answer.revision == api.applied()


async def test_a_refusal_is_in_the_trailers_as_well(api):
    found = await curl(api, framed(b"\x0a\xff\xff"))
    assert (found.http, found.code) == (200, 3)
    assert "not a well-formed message" in found.headers["grpc-message"]
    assert found.headers["grpc-status-details-bin"]


async def test_the_server_ends_a_call_at_its_deadline(api, monkeypatch):
    """Without any help of the client."""
    go_on = threading.Event()
    answer = api.running.store.get_answer

    def held(*arguments):
        assert go_on.wait(WAIT_S)
        return answer(*arguments)

    monkeypatch.setattr(api.running.store, "get_answer", held)
    request = pb.GetRequest(key="none", min_revision=api.applied()).SerializeToString()
    asking = asyncio.ensure_future(curl(api, framed(request), "grpc-timeout: 100m", method="Get"))
    try:
        found = await asking
    finally:
        go_on.set()
    assert (found.http, found.code) == (200, 4)


# Stock gRPC has answers of its own to what follows.
@pytest.mark.parametrize("api", WIRE, indirect=True)
async def test_an_upload_of_other_content_is_told_what_is_here(api):
    found = await curl(api, b"{}", kind="application/json")
    assert found.http == 415
    assert b"gRPC" in found.body


@pytest.mark.parametrize("api", WIRE, indirect=True)
@pytest.mark.parametrize(
    ("body", "header", "code", "words"),
    [
        (framed(PUT), "grpc-timeout: soon", 3, "grpc-timeout"),
        (framed(PUT), "grpc-timeout: 0m", 4, "time was up"),
        (framed(PUT, flag=1), "x-other: y", 3, "without a grpc-encoding"),
        (framed(PUT, flag=1), "grpc-encoding: gzip", 3, "cut short"),
        (framed(PUT), "grpc-encoding: snappy", 12, "identity, gzip and deflate"),
        (framed(PUT, flag=2), "x-other: y", 3, "0 or 1"),
        (framed(PUT)[:-1], "x-other: y", 3, "ended within its message"),
        (framed(PUT) + b"\0", "x-other: y", 3, "more than one message"),
        (b"\0\xff\xff\xff\xff", "x-other: y", 8, "MESSAGE_BYTES_MAX"),
        (framed(PUT), "x-large: " + "y" * 9_000, 8, "METADATA_BYTES_MAX"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
async def test_what_no_library_sends_is_refused_with_a_reason(api, body, header, code, words):
    """Also before the body has come, which curl would not forgive if it were cut off."""
    found = await curl(api, body, header)
    assert (found.http, found.code) == (200, code)
    assert words in found.headers["grpc-message"]
    assert api.applied() == (await revision_before(api)), "nothing was stored"


async def revision_before(api):
    """The revision before one more good put."""
    found = await curl(api, framed(PUT))
    return pb.PutResponse.FromString(found.body[5:]).revision - 1


@pytest.mark.parametrize("api", ["wire"], indirect=True)
async def test_http1_gets_a_sentence(api):
    found = await curl(api, b"x" * 20_000, version="--http1.1")
    assert found.http == 400
    assert b"HTTP/2" in found.body
