//! The kernel side of the mount: a read-only file system that is served from memory.
//!
//! | file         | has                                                          | pure |
//! |--------------|--------------------------------------------------------------|------|
//! | abi.rs       | numbers of the FUSE protocol                                 | yes  |
//! | request.rs   | decodes requests                                             | yes  |
//! | reply.rs     | encodes replies and notices                                  | yes  |
//! | node.rs      | one entry, and how it is numbered                            | yes  |
//! | tree.rs      | the tree: what the kernel may ask of it                      | yes  |
//! | change.rs    | the tree: changes, and which notices they cause              | yes  |
//! | content.rs   | contents, each once, and where they are                      | yes  |
//! | part.rs      | contents of which some chunks are here                       | a file |
//! | feed.rs      | decodes what a node tells of its tree                        | yes  |
//! | committed.rs | what the tree holds, by path                                 | yes  |
//! | past.rs      | the tree: past revisions, of which directories come on demand | a file |
//! | notice.rs    | the queue of notices                                         | yes  |
//! | misses.rs    | content and answers that are not here, and who waits         | yes  |
//! | answers.rs   | what was answered to open files that are made                | yes  |
//! | table.rs     | open files and more, written where it outlives the process    | a file |
//! | pins.rs      | open files: content of one version to the end                | files |
//! | ready.rs     | small files that were closed, for the next open              | files |
//! | ahead.rs     | whether a file that is looked up will be opened next         | yes  |
//! | device.rs    | system calls: /dev/fuse, mount, umount                       | no   |
//! | eager.rs     | whether to look for the next request before sleeping         | yes  |
//! | cores.rs     | asks that idle cores do not halt                             | no   |
//! | threads.rs   | named threads that never are waited for without end          | no   |
//! | session.rs   | all of it together: one mount                                | no   |
//! | told.rs      | contents and changes that a node tells of                    | no   |
//! | serve.rs     | answers requests                                             | no   |
//! | ask.rs       | parks questions, delivers answers                            | no   |
//! | seam.rs      | the classes and functions that Python sees                   | no   |
pub mod abi;
pub mod ahead;
pub mod answers;
mod ask;
pub mod change;
pub mod committed;
pub mod content;
pub mod cores;
pub mod device;
pub mod eager;
pub mod feed;
#[cfg(test)]
#[path = "tests/kernel.rs"]
mod kernel;
pub mod misses;
pub mod node;
pub mod notice;
pub mod part;
pub mod past;
pub mod pins;
pub mod ready;
pub mod reply;
pub mod request;
#[cfg(feature = "python")]
pub mod seam;
mod serve;
pub mod session;
pub mod table;
mod threads;
mod told;
pub mod tree;
