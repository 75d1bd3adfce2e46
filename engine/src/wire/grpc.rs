//! gRPC over HTTP/2: headers, statuses, time-outs.
use super::frame::Frame;
use super::limits::{STATUS_DETAILS_BYTES, STATUS_TEXT_BYTES};
use crate::call::Failure;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use std::task::{Context, Poll};
use std::time::Duration;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const ENCODINGS: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");
/// HTTP/2 counts so much for each header besides its name and value (RFC 9113, 6.5.2).
const HEADER_OVERHEAD: usize = 32;

/// How a message is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

/// A POST of application/grpc, with or without a codec's suffix; not grpc-web.
pub fn is_grpc<T>(request: &Request<T>) -> bool {
    let rest = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    let kind = rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')));
    kind && request.method() == Method::POST
}

/// The size of a request's header list as HTTP/2 counts it.
pub fn metadata_bytes<T>(request: &Request<T>) -> usize {
    let headers = request.headers().iter();
    let listed: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD)
        .sum();
    listed + request.uri().path().len()
}

/// The `grpc-timeout`, None when there is none, or an error when it has no sense.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, &'static str> {
    const NONSENSE: &str = "grpc-timeout is not 1 to 8 digits and one of H M S m u n";
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let Some((unit, digits)) = value.as_bytes().split_last() else {
        return Err(NONSENSE);
    };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NONSENSE);
    }
    let count = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(NONSENSE),
    }))
}

/// The `grpc-encoding`; an error names one that is not known here.
pub fn encoding(headers: &HeaderMap) -> Result<Encoding, String> {
    match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(Encoding::Identity),
        Some(b"gzip") => Ok(Encoding::Gzip),
        Some(b"deflate") => Ok(Encoding::Deflate),
        Some(other) => Err(format!(
            "grpc-encoding \"{}\"; known are identity, gzip and deflate",
            other.escape_ascii()
        )),
    }
}

/// The way to a caller. Errors mean that it is gone: nobody is there to be told.
pub enum Sender {
    /// Nothing has been sent.
    Fresh(SendResponse<Frame>),
    /// The headers of the answer have.
    Begun(SendStream<Frame>),
}

impl Sender {
    /// Sends the headers, if they have not been.
    fn begin(&mut self) -> Option<&mut SendStream<Frame>> {
        if let Sender::Fresh(respond) = self {
            let mut head = Response::new(());
            head.headers_mut().insert(CONTENT_TYPE, GRPC);
            *self = Sender::Begun(respond.send_response(head, false).ok()?);
        }
        match self {
            Sender::Begun(stream) => Some(stream),
            Sender::Fresh(_) => None,
        }
    }

    pub fn has_begun(&self) -> bool {
        matches!(self, Sender::Begun(_))
    }

    /// Sends one message. False: the caller is gone.
    pub fn message(&mut self, frame: Frame) -> bool {
        let sent = self.begin().map(|stream| stream.send_data(frame, false));
        matches!(sent, Some(Ok(())))
    }

    /// Says that the answer is complete.
    pub fn finish(&mut self) {
        if let Some(stream) = self.begin() {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert(STATUS, HeaderValue::from_static("0"));
            let _ = stream.send_trailers(trailers);
        }
    }

    /// Refuses: in one header block, or as the end of an answer that has begun.
    pub fn fail(&mut self, failure: &Failure) {
        match self {
            Sender::Fresh(respond) => fail(respond, failure),
            Sender::Begun(stream) => {
                let _ = stream.send_trailers(trailers(failure));
            }
        }
    }

    /// Asks h2 to wake `cx` when the caller ends the call. Ready when it has.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match self {
            Sender::Fresh(respond) => respond.poll_reset(cx),
            Sender::Begun(stream) => stream.poll_reset(cx),
        }
    }
}

/// Sends a refusal as one header block ("trailers only").
pub fn fail(respond: &mut SendResponse<Frame>, failure: &Failure) {
    let mut head = Response::new(());
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    if failure.code == UNIMPLEMENTED {
        headers.insert(ACCEPT_ENCODING, ENCODINGS);
    }
    put_status(headers, failure);
    let _ = respond.send_response(head, true);
}

const UNIMPLEMENTED: u32 = 12;

/// The trailers of a stream that ends with a refusal.
pub fn trailers(failure: &Failure) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    put_status(&mut trailers, failure);
    trailers
}

/// Answers something that is no gRPC call, for the eyes of whoever tries.
pub fn not_grpc(mut respond: SendResponse<Frame>) {
    const TEXT: &str = "This port speaks gRPC: POST with content-type application/grpc. \
                        Try: grpcurl -plaintext HOST:PORT list\n";
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    head.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if let Ok(mut stream) = respond.send_response(head, false) {
        let _ = stream.send_data(Frame::raw(Bytes::from_static(TEXT.as_bytes())), true);
    }
}

fn put_status(headers: &mut HeaderMap, failure: &Failure) {
    headers.insert(STATUS, HeaderValue::from(failure.code));
    if let Ok(text) = HeaderValue::try_from(percent_encode(&failure.message)) {
        headers.insert(MESSAGE, text);
    }
    if !failure.details.is_empty()
        && failure.details.len() <= STATUS_DETAILS_BYTES
        && let Ok(details) = HeaderValue::try_from(base64(&failure.details))
    {
        headers.insert(DETAILS, details);
    }
}

/// As the gRPC specification says: printable ASCII stays, the rest of the UTF-8 becomes %XX. A text
/// that would grow too long ends at a whole character.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        let before = encoded.len();
        if matches!(character, ' '..='~') && character != '%' {
            encoded.push(character);
        } else {
            let mut utf8 = [0; 4];
            for byte in character.encode_utf8(&mut utf8).bytes() {
                encoded.push('%');
                encoded.push(char::from(HEX[usize::from(byte >> 4)]));
                encoded.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
        if encoded.len() > STATUS_TEXT_BYTES {
            encoded.truncate(before);
            break;
        }
    }
    encoded
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Base64 without padding, as binary metadata travels.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut padded = [0; 4];
        padded[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(padded);
        for digit in 0..=group.len() {
            encoded.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout_of(text: &str) -> Result<Option<Duration>, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_str(text).unwrap());
        timeout(&headers)
    }

    #[test]
    fn timeouts_are_read_in_every_unit_and_refused_otherwise() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("5u", Duration::from_micros(5)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(timeout_of(text), Ok(Some(expected)), "{text}");
        }
        for text in [
            "",
            "S",
            "5",
            "5s",
            "-1S",
            "123456789S",
            "1.5S",
            "5 S",
            "99999999999999999H",
        ] {
            assert!(timeout_of(text).is_err(), "{text:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn base64_has_no_padding() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn messages_are_percent_encoded_and_cut_at_a_character() {
        assert_eq!(percent_encode("no leader: 100 %"), "no leader: 100 %25");
        assert_eq!(percent_encode("ü\n€"), "%C3%BC%0A%E2%82%AC");
        let long = percent_encode(&"€".repeat(5_000));
        assert!(long.len() <= STATUS_TEXT_BYTES && long.len() > STATUS_TEXT_BYTES - 9);
        assert_eq!(long.len() % 9, 0);
    }

    #[test]
    fn only_posts_of_grpc_are_grpc() {
        for (kind, yes) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let request = Request::post("/a/B")
                .header(CONTENT_TYPE, kind)
                .body(())
                .unwrap();
            assert_eq!(is_grpc(&request), yes, "{kind}");
        }
        let get = Request::get("/a/B")
            .header(CONTENT_TYPE, "application/grpc")
            .body(())
            .unwrap();
        assert!(!is_grpc(&get));
    }
}
