//! Questions of a kernel that is the other end of a socket.
use super::super::abi::{ROOT, op};
use super::super::kernel::{Answer, Kernel, WAIT, any, word};
use super::super::session::Options;

fn with_xattr(options: &mut Options) {
    options.xattr = true;
}

fn offering(names: &[&str], change: impl FnOnce(&mut Options)) -> (Kernel, Vec<u64>) {
    let mut kernel = Kernel::new(change);
    let offered: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    kernel.session.offer(&offered);
    let above = kernel.lookup(ROOT, ".dfs");
    let ids = names.iter().map(|name| kernel.lookup(above, name));
    let ids = ids.collect();
    (kernel, ids)
}

fn read(kernel: &mut Kernel, node: u64, (handle, offset, size): (u64, u64, u32)) -> Answer {
    let mut body = vec![0; 40];
    body[..8].copy_from_slice(&handle.to_le_bytes());
    body[8..16].copy_from_slice(&offset.to_le_bytes());
    body[16..20].copy_from_slice(&size.to_le_bytes());
    kernel.ask(op::READ, node, &body)
}

fn release(kernel: &mut Kernel, node: u64, handle: u64) -> i32 {
    let mut body = vec![0; 24];
    body[..8].copy_from_slice(&handle.to_le_bytes());
    kernel.ask(op::RELEASE, node, &body).0
}

fn getxattr(name: &str, size: u32) -> Vec<u8> {
    let mut body = u64::from(size).to_le_bytes().to_vec();
    body.extend(name.bytes());
    body.push(0);
    body
}

#[test]
fn each_open_is_a_question_and_its_answer_stays_until_the_file_is_closed() {
    let (mut kernel, ids) = offering(&["stats"], any);
    let file = ids[0];
    let (one, other) = (
        kernel.send(op::OPEN, file, &[0; 8]),
        kernel.send(op::OPEN, file, &[0; 8]),
    );
    let first = kernel.session.next_questions(1, WAIT);
    let second = kernel.session.next_questions(1, WAIT);
    let text = |id| [(id, ".dfs/stats".to_owned(), 0, "content".to_owned())];
    assert_eq!((&first[..], &second[..]), (&text(1)[..], &text(2)[..]));
    assert!(kernel.session.answer_question(2, Ok(b"second".to_vec())));
    let (errno, opened) = kernel.answer_to(other);
    // Read here, not through the page cache.
    assert_eq!((errno, word(&opened, 8)), (0, 1 | 32));
    let theirs = word(&opened, 0);
    assert!(kernel.session.answer_question(1, Ok(b"first".to_vec())));
    let mine = word(&kernel.answer_to(one).1, 0);
    assert_ne!(mine, theirs);
    assert_eq!(
        read(&mut kernel, file, (mine, 0, 100)),
        (0, b"first".to_vec())
    );
    assert_eq!(read(&mut kernel, file, (theirs, 3, 2)), (0, b"on".to_vec()));
    assert_eq!(read(&mut kernel, file, (theirs, 6, 100)), (0, vec![]));
    assert_eq!(release(&mut kernel, file, mine), 0);
    assert_eq!(kernel.stat("answers"), 1);
    assert_eq!(read(&mut kernel, file, (mine, 0, 100)).0, libc::ESTALE);
    assert!(!kernel.session.answer_question(1, Ok(Vec::new())));
}

#[test]
fn others_are_served_while_a_question_waits_and_it_can_be_interrupted() {
    let (mut kernel, ids) = offering(&["sync"], any);
    kernel.put("f", 1, b"hello", true);
    assert!(kernel.session.flush(WAIT));
    let open = kernel.send(op::OPEN, ids[0], &[0; 8]);
    let file = kernel.lookup(ROOT, "f");
    assert_eq!(read(&mut kernel, file, (0, 0, 9)), (0, b"hello".to_vec()));
    kernel.send(op::INTERRUPT, 0, &open.to_le_bytes());
    assert_eq!(kernel.answer_to(open).0, libc::EINTR);
    assert_eq!(kernel.stat("questions"), 1);
    assert!(!kernel.session.answer_question(1, Ok(Vec::new())));
}

#[test]
fn an_errno_is_an_answer_and_a_question_that_nobody_answers_times_out() {
    let (mut kernel, ids) = offering(&["sync"], any);
    let open = kernel.send(op::OPEN, ids[0], &[0; 8]);
    kernel.session.next_questions(1, WAIT);
    assert!(kernel.session.answer_question(1, Err(libc::EHOSTUNREACH)));
    assert_eq!(kernel.answer_to(open).0, libc::EHOSTUNREACH);
    let soon = |options: &mut Options| options.deadline = std::time::Duration::from_millis(20);
    let (mut kernel, ids) = offering(&["sync"], soon);
    for _ in 0..2 {
        // Not remembered as failed: the next one is asked again.
        let open = kernel.send(op::OPEN, ids[0], &[0; 8]);
        assert_eq!(kernel.answer_to(open).0, libc::ETIMEDOUT);
    }
    assert_eq!(kernel.stat("questions"), 2);
}

#[test]
fn nothing_is_offered_where_opens_are_not_asked_for() {
    let mut kernel = Kernel::new(|options| options.no_open = true);
    kernel.session.offer(&["stats".to_owned()]);
    assert_eq!(kernel.lookup(ROOT, ".dfs"), 0);
}

#[test]
fn extended_attributes_are_questions_where_they_are_wanted() {
    let mut kernel = Kernel::new(with_xattr);
    kernel.put("d/f", 7, b"hello", true);
    assert!(kernel.session.flush(WAIT));
    let directory = kernel.lookup(ROOT, "d");
    let file = kernel.lookup(directory, "f");
    let asked = |kernel: &Kernel| kernel.session.next_questions(1, WAIT)[0].clone();
    let get = kernel.send(op::GETXATTR, file, &getxattr("user.dfs.sha256", 64));
    let (id, path, version, what) = asked(&kernel);
    assert_eq!(
        (&*path, version, &*what),
        ("d/f", 7, "xattr:user.dfs.sha256")
    );
    kernel.session.answer_question(id, Ok(b"abc".to_vec()));
    assert_eq!(kernel.answer_to(get), (0, b"abc".to_vec()));
    for (size, expected) in [
        (0, (0, vec![3, 0, 0, 0, 0, 0, 0, 0])),
        (2, (libc::ERANGE, vec![])),
    ] {
        let list = kernel.send(op::LISTXATTR, file, &u64::from(size as u32).to_le_bytes());
        let (id, _, _, what) = asked(&kernel);
        assert_eq!(what, "xattrs");
        kernel.session.answer_question(id, Ok(b"abc".to_vec()));
        assert_eq!(kernel.answer_to(list), expected);
    }
    let other = kernel.ask(op::GETXATTR, file, &getxattr("security.selinux", 255));
    assert_eq!(other.0, libc::ENODATA, "nobody is asked for it");
    let get = kernel.send(op::GETXATTR, ROOT, &getxattr("user.dfs.x", 64));
    let (id, path, _, _) = asked(&kernel);
    assert_eq!(path, "", "the root");
    kernel.session.answer_question(id, Err(libc::ENODATA));
    assert_eq!(kernel.answer_to(get).0, libc::ENODATA);
}

#[test]
fn statfs_knows_what_is_free() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 1, &[0; 4_097], true);
    assert!(kernel.session.flush(WAIT));
    kernel.session.set_free(10 * 4_096);
    let (errno, figures) = kernel.ask(op::STATFS, ROOT, &[]);
    assert_eq!((errno, word(&figures, 0), word(&figures, 8)), (0, 12, 10));
    assert_eq!((word(&figures, 24), word(&figures, 32)), (11, 10));
}
