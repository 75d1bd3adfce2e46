use super::super::change::{Batch, Upsert};
use super::super::node::{Kind, NOBODY};
use super::super::tree::Tree;
use super::*;

const DEADLINE: Duration = Duration::from_secs(30);

fn node(path: &str) -> Arc<Node> {
    let upsert = Upsert {
        path: path.to_owned(),
        kind: Kind::File,
        size: 9,
        mode: 0,
        mtime_ns: 0,
        uid: NOBODY,
        gid: NOBODY,
        version: 4,
        place: None,
        ..Upsert::default()
    };
    let mut tree = Tree::new(0);
    tree.upsert(&upsert, &mut Batch::new(0));
    tree.find(path).unwrap().clone()
}

fn waiter(unique: u64, node: &Arc<Node>) -> Waiter {
    Waiter {
        unique,
        node: node.clone(),
        want: Want::Open,
        since: Instant::now(),
    }
}

fn uniques(waiters: Vec<Waiter>) -> Vec<u64> {
    waiters.iter().map(|waiter| waiter.unique).collect()
}

#[test]
fn readers_of_one_file_share_one_miss() {
    let (misses, now) = (Misses::new(DEADLINE), Instant::now());
    let (one, two) = (node("d/one"), node("two"));
    misses.park(waiter(2, &one), "d/one", now).unwrap();
    misses.park(waiter(4, &one), "d/one", now).unwrap();
    misses.park(waiter(6, &two), "two", now).unwrap();
    let taken = misses.take(10, Duration::ZERO);
    assert_eq!(
        taken,
        [
            (1, "d/one".to_owned(), 4, 0, 0),
            (2, "two".to_owned(), 4, 0, 0)
        ]
    );
    assert_eq!(misses.take(10, Duration::ZERO), []);
    assert_eq!(misses.waiting(), 3);
    assert_eq!(misses.node(1).unwrap().id, one.id);
    assert_eq!(uniques(misses.end(1, None, now).unwrap()), [2, 4]);
    assert!(misses.end(1, None, now).is_none());
    assert_eq!(misses.waiting(), 1);
}

#[test]
fn a_failed_file_fails_at_once_for_a_second() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    misses.park(waiter(2, &one), "one", now).unwrap();
    misses.end(1, Some(libc::EHOSTUNREACH), now).unwrap();
    let soon = now + FAILURE_MEMORY / 2;
    assert_eq!(
        misses.park(waiter(4, &one), "one", soon).err(),
        Some(libc::EHOSTUNREACH)
    );
    let later = misses.park(waiter(6, &one), "one", now + FAILURE_MEMORY);
    assert!(later.unwrap().is_none());
}

#[test]
fn a_deadline_ends_the_miss_for_all_and_is_remembered() {
    let (misses, one) = (Misses::new(Duration::from_millis(1)), node("one"));
    misses.park(waiter(2, &one), "one", Instant::now()).unwrap();
    misses.park(waiter(4, &one), "one", Instant::now()).unwrap();
    assert_eq!(uniques(misses.overdue().unwrap()), [2, 4]);
    assert!(misses.end(1, None, Instant::now()).is_none(), "too late");
    assert_eq!(
        misses.park(waiter(6, &one), "one", Instant::now()).err(),
        Some(libc::ETIMEDOUT)
    );
    assert_eq!(
        misses.take(1, Duration::ZERO),
        [],
        "what has ended is not handed out"
    );
}

#[test]
fn an_interrupt_takes_one_reader_out_and_leaves_the_fetch() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    misses.park(waiter(2, &one), "one", now).unwrap();
    misses
        .park(waiter(4 | UNIQUE_RESEND, &one), "one", now)
        .unwrap();
    assert_eq!(misses.interrupt(4).unwrap().unique, 4 | UNIQUE_RESEND);
    assert!(misses.interrupt(4).is_none());
    assert!(misses.interrupt(8).is_none());
    assert_eq!(uniques(misses.end(1, None, now).unwrap()), [2]);
}

#[test]
fn a_request_that_is_handed_out_twice_waits_once() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    misses.park(waiter(2, &one), "one", now).unwrap();
    misses
        .park(waiter(2 | UNIQUE_RESEND, &one), "one", now)
        .unwrap();
    assert_eq!(misses.waiting(), 1);
    assert_eq!(
        uniques(misses.end(1, None, now).unwrap()),
        [2 | UNIQUE_RESEND]
    );
}

#[test]
fn closing_returns_everybody_and_wakes_the_threads() {
    let misses = Arc::new(Misses::new(DEADLINE));
    let (taker, clock) = (misses.clone(), misses.clone());
    let taking = std::thread::spawn(move || taker.take(1, Duration::from_secs(60)));
    let timing = std::thread::spawn(move || clock.overdue().is_none());
    let one = node("one");
    assert!(misses.close().is_empty());
    assert_eq!(taking.join().unwrap(), []);
    assert!(timing.join().unwrap());
    let refused = misses.park(waiter(2, &one), "one", Instant::now());
    assert_eq!(refused.err(), Some(libc::ENOTCONN));
}

#[test]
fn a_request_whose_file_has_come_meanwhile_is_no_miss() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    misses.park(waiter(2, &one), "one", now).unwrap();
    *one.place.lock() = Some(c"/objects/one".into());
    let joined = misses.park(waiter(4, &one), "one", now).unwrap();
    assert!(
        joined.is_none(),
        "whoever fetches it will tell this one too"
    );
    assert_eq!(uniques(misses.end(1, None, now).unwrap()), [2, 4]);
    let back = misses.park(waiter(6, &one), "one", now).unwrap();
    assert_eq!(back.map(|waiter| waiter.unique), Some(6));
    assert_eq!(
        (misses.waiting(), misses.take(9, Duration::ZERO).len()),
        (0, 0)
    );
}

#[test]
fn each_question_is_one_of_its_own() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    let ask = |unique| misses.ask(waiter(unique, &one), ".dfs/sync", "content".to_owned(), now);
    ask(2).unwrap();
    ask(4).unwrap();
    assert_eq!(misses.take(9, Duration::ZERO), [], "a question is no miss");
    let taken = misses.take_questions(9, Duration::ZERO);
    let question = |id| (id, ".dfs/sync".to_owned(), 4, "content".to_owned());
    assert_eq!(taken, [question(1), question(2)]);
    assert_eq!(misses.take_questions(9, Duration::ZERO), []);
    assert_eq!(misses.end_question(2).unwrap().unique, 4);
    assert!(misses.end_question(2).is_none());
    assert_eq!(misses.waiting(), 1);
}

#[test]
fn a_question_is_not_ended_as_a_miss_nor_a_miss_as_a_question() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    let what = "content".to_owned();
    misses.ask(waiter(2, &one), ".dfs/a", what, now).unwrap();
    misses.park(waiter(4, &one), "one", now).unwrap();
    assert!(misses.end(1, Some(libc::EIO), now).is_none());
    assert!(misses.node(1).is_none());
    assert!(misses.end_question(2).is_none());
    assert_eq!(misses.waiting(), 2);
}

#[test]
fn an_interrupted_question_is_gone_and_one_that_is_handed_out_again_stays_one() {
    let (misses, now, one) = (Misses::new(DEADLINE), Instant::now(), node("one"));
    let ask = |unique| misses.ask(waiter(unique, &one), ".dfs/a", "content".to_owned(), now);
    ask(2).unwrap();
    ask(2 | UNIQUE_RESEND).unwrap();
    assert_eq!(misses.waiting(), 1);
    assert_eq!(misses.interrupt(2).unwrap().unique, 2 | UNIQUE_RESEND);
    assert_eq!(misses.waiting(), 0);
    assert_eq!(misses.take_questions(9, Duration::ZERO), []);
    assert!(misses.end_question(1).is_none());
}

#[test]
fn a_question_whose_time_is_up_is_not_remembered_as_failed() {
    let (misses, one) = (Misses::new(Duration::from_millis(1)), node("one"));
    let ask = |unique| {
        let what = "content".to_owned();
        misses.ask(waiter(unique, &one), ".dfs/a", what, Instant::now())
    };
    ask(2).unwrap();
    assert_eq!(uniques(misses.overdue().unwrap()), [2]);
    ask(4).unwrap();
    assert_eq!(misses.waiting(), 1);
}

#[test]
fn closing_ends_questions_and_wakes_who_waits_for_one() {
    let misses = Arc::new(Misses::new(DEADLINE));
    let taker = misses.clone();
    let taking = std::thread::spawn(move || taker.take_questions(1, Duration::from_secs(60)));
    assert!(misses.close().is_empty());
    assert_eq!(taking.join().unwrap(), []);
    let (what, one) = ("content".to_owned(), node("one"));
    let refused = misses.ask(waiter(2, &one), ".dfs/a", what, Instant::now());
    assert_eq!(refused.err(), Some(libc::ENOTCONN));
}
