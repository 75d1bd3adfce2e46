//! The side that has a content.
use super::super::hello::{self, Frames, closed, framed, reason};
use super::super::shared::Shared;
use super::super::transfer::{moving, stall};
use super::{BYTES, BYTES_MAX, GONE, Line, ORDER_BYTES_MAX, Order, TRANSFERS_MAX, head};
use crate::contents::hex;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

/// Answers one order.
pub async fn give(shared: &Arc<Shared>, mut frames: Frames) -> io::Result<()> {
    let limit = stall(shared);
    let asked = moving(limit, frames.read(ORDER_BYTES_MAX)).await?;
    let order = match Order::decode(asked.ok_or_else(closed)?) {
        Ok(order) => order,
        Err(e) => return hello::refuse(&mut frames, &e.to_string()).await,
    };
    // The asker waits for twice as long.
    let place = shared.contents.places.clone().acquire_owned();
    let Ok(Ok(place)) = tokio::time::timeout(limit / 2, place).await else {
        let me = &shared.me.name;
        let text = format!("{me} is busy: it gives contents to {TRANSFERS_MAX} others already");
        return hello::refuse(&mut frames, &text).await;
    };
    let shared = shared.clone();
    let work = move || {
        let _place = place;
        answer(&Line::new(&shared, frames)?, &order)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

fn answer(line: &Line, order: &Order) -> io::Result<()> {
    let (file, whole) = match open(line.shared, order) {
        Ok(found) => found,
        Err(text) => {
            let refusal = [&[1], text.as_bytes()].concat();
            return line.write_all(&framed(&refusal));
        }
    };
    line.write_all(&framed(&[0]))?;
    for number in &order.numbers {
        let chunk = order.layout.chunk(*number)?;
        if whole || !hole(&file, &chunk) {
            send(line, &file, chunk)?;
        } else {
            line.write_all(&head(GONE, 0))?; // not there yet: nobody wants zeros for it
        }
    }
    Ok(())
}

/// Where a file may be that is still filled.
const FILLING: [&str; 2] = ["uploads", "arriving"];

/// The file of a content and whether all of it is there, or why it cannot be given. Nothing but the
/// digest makes the path.
fn open(shared: &Shared, order: &Order) -> Result<(File, bool), String> {
    let (me, dir) = (&shared.me.name, &shared.contents.dir);
    if dir.as_os_str().is_empty() {
        return Err(format!("{me} keeps no contents"));
    }
    let hex = hex(&order.content);
    // Whatever else has that name, it is not waited for.
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut file = options.open(dir.join(&hex[..2]).join(&hex));
    let whole = file.is_ok();
    for place in FILLING.into_iter().filter(|_| order.unfinished) {
        if matches!(&file, Err(e) if e.kind() == io::ErrorKind::NotFound) {
            file = options.open(dir.join(place).join(&hex));
        }
    }
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => format!("{me} has no content {hex}"),
        _ => format!("{me} cannot open content {hex}: {}", reason(&e)),
    })?;
    let found = file
        .metadata()
        .map_err(|e| format!("{me} cannot open content {hex}: {}", reason(&e)))?;
    if !found.is_file() {
        return Err(format!(
            "{me} has something else than a file as content {hex}"
        ));
    }
    let (size, wanted) = (found.len(), order.layout.size());
    if size != wanted {
        let text = format!("{me} has {size} bytes as content {hex}, which has {wanted}");
        return Err(text);
    }
    Ok((file, whole))
}

/// Sends a chunk as far as the disk gives it. What a frame lacks then is zeros: whoever gets it
/// finds that it is wrong.
fn send(line: &Line, file: &File, chunk: Range<u64>) -> io::Result<()> {
    let mut at = chunk.start;
    while at < chunk.end {
        let end = chunk.end.min(at + BYTES_MAX as u64);
        line.write_all(&head(BYTES, (end - at) as usize))?;
        at += line.send_file(file, at..end)?;
        if at < end {
            line.write_all(&vec![0; (end - at) as usize])?;
            if end < chunk.end {
                line.write_all(&head(GONE, 0))?;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Nothing was written in all of the chunk.
fn hole(file: &File, chunk: &Range<u64>) -> bool {
    // SAFETY: the descriptor is open as long as `file` is; its position, which this moves, is not
    // used by `send_file`, which is told where to begin.
    let data = unsafe { libc::lseek(file.as_raw_fd(), chunk.start as i64, libc::SEEK_DATA) };
    if data < 0 {
        // ENXIO: a hole up to the end. Where the file system cannot say it, bytes are read.
        return io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO);
    }
    data as u64 >= chunk.end
}
