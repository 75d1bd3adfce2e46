//! The whole session against a kernel that is the other end of a socket.
use super::super::abi::{ROOT, notify, op};
use super::super::feed::entries;
use super::super::feed::tests::{event, record, varint};
use super::super::kernel::{Kernel, WAIT, any, read_body, word};
use super::super::part::Part;
use super::super::session::Come;
use super::*;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::thread;

#[test]
fn init_grants_what_both_know() {
    let mut kernel = Kernel::new(any);
    let (errno, body) = kernel.init(99);
    assert_eq!((errno, body.len()), (0, 64));
    assert_eq!(word(&body, 0), 45 << 32 | 7);
    assert_eq!(kernel.init(30), (libc::EPROTO, vec![]));
    assert_eq!((kernel.stat("passthrough"), kernel.stat("epochs")), (1, 1));
}

#[test]
fn names_attributes_and_listings() {
    let mut kernel = Kernel::new(any);
    kernel.put("d/f", 1, b"hello", true);
    let directory = kernel.lookup(ROOT, "d");
    let file = kernel.lookup(directory, "f");
    assert_eq!(kernel.lookup(directory, "missing"), 0);
    let (errno, attr) = kernel.ask(op::GETATTR, file, &[0; 16]);
    assert_eq!((errno, word(&attr, 16), word(&attr, 24)), (0, file, 5));
    let (errno, listing) = kernel.ask(op::READDIR, directory, &read_body(0, 4096));
    assert_eq!((errno, listing.len()), (0, 96));
    let (_, again) = kernel.ask(op::READDIR, directory, &read_body(word(&listing, 72), 4096));
    assert!(again.is_empty());
    assert_eq!(
        kernel
            .ask(op::READDIRPLUS, directory, &read_body(0, 4096))
            .1
            .len(),
        3 * 160
    );
    assert_eq!(kernel.ask(op::STATFS, ROOT, &[]).1.len(), 80);
    kernel.send(op::FORGET, file, &2u64.to_le_bytes()); // The look-up and the listing.
    assert_eq!(kernel.ask(op::READLINK, file, &[]).0, libc::EINVAL);
}

#[test]
fn an_entry_belongs_to_whom_it_names_and_else_to_whoever_mounts() {
    let mut kernel = Kernel::new(any);
    let owned = |revision| [record(1, revision, b""), varint(17, 5)].concat();
    kernel.show("d", &owned(1), 1, None);
    kernel.put("d/f", 2, b"1", true);
    let id = kernel.lookup(ROOT, "d");
    let file = kernel.lookup(id, "f");
    let owner = |kernel: &mut Kernel, id| {
        let (errno, attr) = kernel.ask(op::GETATTR, id, &[0; 16]);
        assert_eq!(errno, 0);
        (word(&attr, 84) as u32, (word(&attr, 84) >> 32) as u32)
    };
    assert_eq!(owner(&mut kernel, id), (5, 2));
    assert_eq!(owner(&mut kernel, file), (1, 2));
    kernel.show("d", &[owned(3), varint(18, 0)].concat(), 3, None);
    assert_eq!(owner(&mut kernel, id), (5, 0));
}

#[test]
fn symlinks_have_targets() {
    let mut kernel = Kernel::new(any);
    kernel.show("l", &record(2, 1, b"d/f"), 1, None);
    let id = kernel.lookup(ROOT, "l");
    assert_eq!(kernel.ask(op::READLINK, id, &[]), (0, b"d/f".to_vec()));
}

#[test]
fn what_is_not_supported_is_said_once_and_for_all() {
    let mut kernel = Kernel::new(any);
    for opcode in [op::GETXATTR, op::LISTXATTR, 25, 34, 39, 46, op::OPENDIR] {
        let body = b"\0\x01\0\0\0\0\0\0user.x\0";
        assert_eq!(kernel.ask(opcode, ROOT, body).0, libc::ENOSYS, "{opcode}");
    }
    let mut kernel = Kernel::new(|options| options.no_open = true);
    assert_eq!(kernel.ask(op::OPEN, ROOT, &[0; 8]).0, libc::ENOSYS);
}

#[test]
fn unknown_nodes_are_stale() {
    let mut kernel = Kernel::new(any);
    for opcode in [op::GETATTR, op::OPEN, op::READLINK] {
        assert_eq!(kernel.ask(opcode, 4_711, &[0; 16]).0, libc::ESTALE);
    }
    assert_eq!(kernel.read(4_711, 0, 1).0, libc::ESTALE);
    assert_eq!(kernel.ask(op::LOOKUP, 4_711, b"x\0").0, libc::ESTALE);
    assert_eq!(
        kernel.ask(op::READDIR, 4_711, &read_body(0, 4096)).0,
        libc::ESTALE
    );
    assert_eq!(kernel.ask(op::OPEN, ROOT, &[0; 8]).0, libc::EISDIR);
}

#[test]
fn malformed_requests_are_refused_and_the_next_one_is_served() {
    let mut kernel = Kernel::new(any);
    assert_eq!(kernel.ask(op::LOOKUP, ROOT, b"no end").0, libc::EINVAL);
    kernel.socket.send(b"short").unwrap();
    assert_eq!(kernel.ask(op::STATFS, ROOT, &[]).0, 0);
    assert_eq!(kernel.stat("malformed"), 2);
}

#[test]
fn an_open_file_keeps_its_version_and_a_new_open_gets_the_new_one() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 1, b"old", true);
    assert!(
        kernel.session.flush(WAIT),
        "what it tells the kernel comes before all answers"
    );
    let old = kernel.lookup(ROOT, "f");
    assert_eq!(kernel.ask(op::OPEN, old, &[0; 8]).0, 0);
    kernel.put("f", 2, b"newer", true);
    let (unique, code, rest) = kernel.receive();
    assert_eq!(
        (unique, code, word(&rest, 0), word(&rest, 8)),
        (0, notify::DELETE, ROOT, old)
    );
    std::fs::remove_file(kernel.dir.path().join("1")).unwrap();
    assert_eq!(kernel.read(old, 0, 100), (0, b"old".to_vec()));
    let new = kernel.lookup(ROOT, "f");
    assert_ne!(old, new);
    assert_eq!(kernel.read(new, 1, 2), (0, b"ew".to_vec()));
}

#[test]
fn a_miss_waits_for_the_content() {
    let mut kernel = Kernel::new(any);
    kernel.put("d/f", 7, b"hello", false);
    let directory = kernel.lookup(ROOT, "d");
    let file = kernel.lookup(directory, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let taken = kernel.session.next_misses(9, WAIT);
    assert_eq!(taken, [(1, "d/f".to_owned(), 7, 0, 0)]);
    let place = kernel.object(7, b"hello");
    assert!(kernel.session.fulfil(1, Ok(Come::Whole(place))));
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(kernel.read(file, 0, 100), (0, b"hello".to_vec()));

    assert!(!kernel.session.fulfil(1, Err(libc::EIO)));
}

#[test]
fn a_miss_that_fails_gives_its_errno_and_a_wrong_file_is_an_error() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 7, b"hello", false);
    kernel.put("g", 8, b"hello", false);
    let (one, other) = (kernel.lookup(ROOT, "f"), kernel.lookup(ROOT, "g"));
    let open = kernel.send(op::OPEN, one, &[0; 8]);
    let miss = kernel.miss();
    assert!(kernel.session.fulfil(miss, Err(libc::EHOSTUNREACH)));
    assert_eq!(kernel.answer_to(open).0, libc::EHOSTUNREACH);
    assert_eq!(
        kernel.ask(op::OPEN, one, &[0; 8]).0,
        libc::EHOSTUNREACH,
        "remembered"
    );
    let read = kernel.send(op::READ, other, &read_body(0, 9));
    let miss = kernel.miss();
    let place = kernel.object(8, b"hell");
    assert!(kernel.session.fulfil(miss, Ok(Come::Whole(place))));
    assert_eq!(kernel.answer_to(read).0, libc::EIO);
    assert_eq!((kernel.stat("damaged"), kernel.stat("io_errors")), (1, 1));
}

/// Some of a content of 12 bytes, in chunks of four.
pub(super) fn part(kernel: &Kernel, version: u64) -> Arc<Part> {
    let path = kernel.dir.path().join(format!("part{version}"));
    std::fs::write(&path, b"abcdefghijkl").unwrap();
    let file = std::fs::File::open(path).unwrap();
    let part = Part::new(("f".to_owned(), version), file, 12, 4);
    Arc::new(part.unwrap())
}

#[test]
fn a_file_is_open_before_it_is_here_and_each_read_waits_for_its_chunks() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 7, &[0; 12], false);
    let file = kernel.lookup(ROOT, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let (miss, part) = (kernel.miss(), part(&kernel, 7));
    part.mark(1);
    assert!(kernel.session.fulfil(miss, Ok(Come::Part(part.clone()))));
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(kernel.stat("open_arriving"), 1);
    assert_eq!(kernel.read(file, 5, 3), (0, b"fgh".to_vec()));

    kernel.put("f", 8, b"newer", true); // What is open stays what it is.
    let (first, last) = (
        kernel.send(op::READ, file, &read_body(3, 2)),
        kernel.send(op::READ, file, &read_body(8, 100)),
    );
    let mut taken = Vec::new();
    while taken.len() < 2 {
        taken.extend(kernel.session.next_misses(9, WAIT));
    }
    let of = |id, first, upto| (id, "f".to_owned(), 7, first, upto);
    assert_eq!(taken, [of(2, 0, 2), of(3, 2, 3)]);
    part.mark(2);
    assert!(kernel.session.fulfil(3, Ok(Come::Part(part.clone()))));
    assert_eq!(kernel.answer_to(last), (0, b"ijkl".to_vec()));
    assert!(kernel.session.fulfil(2, Err(libc::EIO)));
    assert_eq!(kernel.answer_to(first).0, libc::EIO);
    assert_eq!(kernel.read(file, 3, 2).0, libc::EIO, "remembered");
    assert_eq!(kernel.read(file, 8, 4), (0, b"ijkl".to_vec()), "of these");
    part.mark(0);
    assert_eq!(kernel.read(file, 0, 9), (0, b"abcdefghi".to_vec()));
    assert_eq!(kernel.stat("open_arriving"), 0);
}

#[test]
fn a_part_that_is_begun_anew_is_read_by_who_has_the_file_open() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 7, &[0; 12], false);
    let file = kernel.lookup(ROOT, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let (miss, former) = (kernel.miss(), part(&kernel, 7));
    kernel.session.fulfil(miss, Ok(Come::Part(former.clone())));
    assert_eq!(kernel.answer_to(open).0, 0);
    let read = kernel.send(op::READ, file, &read_body(0, 4));
    let (miss, anew) = (kernel.miss(), part(&kernel, 7));
    anew.mark(0);
    assert!(kernel.session.fulfil(miss, Ok(Come::Part(anew.clone()))));
    assert_eq!(kernel.answer_to(read), (0, b"abcd".to_vec()));
    let next = kernel.ask(op::STATFS, ROOT, &[]).0;
    assert_eq!(next, 0, "the thread that parked the read has let go of it");
    assert_eq!(
        (Arc::strong_count(&former), Arc::strong_count(&anew)),
        (1, 2)
    );
    assert_eq!(kernel.ask(op::RELEASE, file, &[0; 24]).0, 0);
    assert_eq!(Arc::strong_count(&anew), 1, "nobody has it open");
}

#[test]
fn without_opens_a_read_waits_for_the_content_and_then_for_its_chunks() {
    let mut kernel = Kernel::new(|options| options.no_open = true);
    kernel.put("f", 7, &[0; 12], false);
    kernel.put("g", 8, &[0; 13], false);
    let (file, other) = (kernel.lookup(ROOT, "f"), kernel.lookup(ROOT, "g"));
    let read = kernel.send(op::READ, file, &read_body(4, 4));
    let (miss, part) = (kernel.miss(), part(&kernel, 7));
    assert!(kernel.session.fulfil(miss, Ok(Come::Part(part.clone()))));
    let taken = kernel.session.next_misses(9, WAIT);
    assert_eq!(taken, [(2, "f".to_owned(), 7, 1, 2)]);
    part.mark(1);
    assert!(kernel.session.fulfil(2, Ok(Come::Part(part.clone()))));
    assert_eq!(kernel.answer_to(read), (0, b"efgh".to_vec()));
    assert_eq!(kernel.read(file, 5, 2), (0, b"fg".to_vec()));
    let read = kernel.send(op::READ, other, &read_body(0, 4));
    assert!(kernel.session.fulfil(kernel.miss(), Ok(Come::Part(part))));
    assert_eq!(kernel.answer_to(read).0, libc::EIO, "of another size");
}

#[test]
fn a_damaged_local_file_is_fetched_again() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 7, b"hello", true);
    std::fs::write(kernel.dir.path().join("7"), b"hel").unwrap();
    let file = kernel.lookup(ROOT, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let miss = kernel.miss();
    let place = kernel.object(7, b"hello");
    assert!(kernel.session.fulfil(miss, Ok(Come::Whole(place))));
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(kernel.stat("damaged"), 1);
}

#[test]
fn a_deadline_answers_and_an_interrupt_answers_at_once() {
    let mut kernel = Kernel::new(|options| options.deadline = Duration::from_millis(20));
    kernel.put("f", 7, b"hello", false);
    let file = kernel.lookup(ROOT, "f");
    assert_eq!(kernel.ask(op::OPEN, file, &[0; 8]).0, libc::ETIMEDOUT);
    assert_eq!(kernel.stat("timeouts"), 1);

    let mut kernel = Kernel::new(any);
    kernel.put("f", 7, b"hello", false);
    let file = kernel.lookup(ROOT, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    kernel.miss();
    kernel.send(op::INTERRUPT, 0, &open.to_le_bytes());
    assert_eq!(kernel.answer_to(open).0, libc::EINTR);
    assert_eq!(
        kernel.ask(op::INTERRUPT, 0, &open.to_le_bytes()).0,
        libc::EAGAIN
    );
}

#[test]
fn caches_are_not_trusted_while_changes_do_not_arrive() {
    let mut kernel = Kernel::new(any);
    let lifetime = |kernel: &mut Kernel| word(&kernel.ask(op::LOOKUP, ROOT, b"x\0").1, 16);
    assert_eq!(lifetime(&mut kernel), 3_600);
    kernel.session.set_live(false);
    assert_eq!(lifetime(&mut kernel), 0);
}

#[test]
fn a_take_over_asks_for_a_resend_and_invalidates_everything() {
    let kernel = Kernel::new(any);
    let next = kernel.next(None, |_| {});
    let codes: Vec<i32> = (0..3).map(|_| next.receive().1).collect();
    assert_eq!(
        codes,
        [notify::RESEND, notify::INC_EPOCH, notify::INVAL_INODE]
    );
}

#[test]
fn closing_answers_who_waits_and_a_session_serves_once() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 7, b"hello", false);
    let file = kernel.lookup(ROOT, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    kernel.miss();
    assert!(
        kernel
            .session
            .serve(kernel.socket.as_raw_fd(), None)
            .is_err()
    );
    assert!(kernel.session.running());
    kernel.session.close();
    assert_eq!(kernel.answer_to(open).0, libc::ENOTCONN);
    assert!(
        kernel
            .session
            .serve(kernel.socket.as_raw_fd(), None)
            .is_err()
    );
    assert_eq!(kernel.session.next_misses(1, WAIT), []);
}

#[test]
fn who_was_told_to_stop_takes_no_request_however_many_there_are() {
    let kernel = Kernel::new(any);
    kernel.session.threads.stop();
    let (socket, end) = UnixDatagram::pair().unwrap();
    for _ in 0..9 {
        socket.send(b"a request").unwrap();
    }
    let device = Device::duplicate(end.as_raw_fd()).unwrap();
    let (stop, _) = std::io::pipe().unwrap();
    kernel.session.answer_requests(&device, stop.as_fd());
    let mut buffer = [0; 16];
    for _ in 0..9 {
        assert_eq!(
            end.recv(&mut buffer).unwrap(),
            9,
            "the next process gets it"
        );
    }
}

#[test]
fn what_is_told_in_one_call_is_seen_as_a_whole() {
    const NAMES: usize = 10_000;
    const ROUNDS: u64 = 20;
    let kernel = Kernel::new(any);
    let all = |round: u64, deleted, revision| {
        let record = record(0, revision, b"");
        let name = |n: usize| event(&format!("d{round}/{n}"), &record, deleted, revision);
        (0..NAMES).flat_map(name).collect::<Vec<u8>>()
    };
    let show = |round: u64| {
        let gone = all(round.saturating_sub(1), true, round + 1);
        let told = [gone, all(round, false, round + 1)].concat();
        let told = entries(&told, 0).unwrap();
        kernel.session.show(&told, vec![], false);
    };
    show(0);
    let session = kernel.session.clone();
    let seen = thread::spawn(move || {
        let mut looks = 0;
        loop {
            looks += 1;
            let tree = session.tree.read();
            let with = |name: usize| -> Vec<u64> {
                let there = |round: &u64| tree.find(&format!("d{round}/{name}")).is_some();
                (0..=ROUNDS).filter(there).collect()
            };
            let shown = with(0);
            assert_eq!((shown.len(), &with(NAMES - 1)), (1, &shown));
            if shown == [ROUNDS] {
                return looks;
            }
        }
    });
    for round in 1..=ROUNDS {
        show(round);
    }
    assert!(seen.join().unwrap() > ROUNDS);
}

#[test]
fn destroy_ends_the_loop() {
    let mut kernel = Kernel::new(any);
    assert_eq!(kernel.ask(op::DESTROY, 0, &[]).0, 0);
    let end = Instant::now() + WAIT;
    while kernel.session.running() && Instant::now() < end {
        thread::yield_now();
    }
    assert!(!kernel.session.running());
}
