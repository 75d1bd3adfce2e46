//! The parts of dfs that Python cannot do fast or safely; see src/dfs/_engine.pyi for the contract.
pub mod call;
pub mod contents;
pub mod door;
pub mod mount;
pub mod protobuf;
pub mod raft;
pub mod records;
#[cfg(feature = "python")]
mod seam;
pub mod ticks;
pub mod wire;
