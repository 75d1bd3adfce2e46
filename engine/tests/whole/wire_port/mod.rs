//! The public port, met over real sockets by an HTTP/2 client that can misbehave.
mod bounds;
mod forwarding;
mod harness;
mod hot;
mod life;
mod streams;
mod tls;
mod upstream;
