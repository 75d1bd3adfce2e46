//! The engine as others use it. One program: each more is linked for half a minute.
mod python;
mod restart;
mod suite;
mod wire_port;
