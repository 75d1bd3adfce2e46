use super::*;
use std::sync::Arc;
use std::thread;

fn names(count: u64) -> Notices {
    let name = |id: u64| Notice::Entry {
        parent: 1,
        name: id.to_string().into_bytes().into(),
    };
    Notices {
        names: (0..count).map(name).collect(),
        inodes: [1].into(),
    }
}

fn opened() -> Arc<Queue> {
    let queue = Queue::default();
    queue.open();
    queue.into()
}

#[test]
fn nothing_is_kept_while_no_kernel_listens() {
    let queue = Queue::default();
    queue.push(names(3));
    assert_eq!(queue.counts().0, 0);
    assert!(queue.flush(Duration::ZERO));
    queue.open();
    queue.push(names(3));
    assert_eq!(queue.counts().0, 4);
}

#[test]
fn names_come_in_order_and_before_their_directory() {
    let queue = opened();
    queue.push(names(2));
    let expected = names(2);
    assert_eq!(queue.next().as_ref(), expected.names.first());
    assert_eq!(queue.next().as_ref(), expected.names.get(1));
    assert_eq!(queue.next(), Some(Notice::Attributes(1)));
}

#[test]
fn flush_waits_for_what_was_queued_before_it() {
    let queue = opened();
    queue.push(names(1));
    assert!(!queue.flush(Duration::from_millis(1)));
    let deliverer = queue.clone();
    let thread = thread::spawn(move || {
        while deliverer.next().is_some() {
            deliverer.delivered();
        }
    });
    assert!(queue.flush(Duration::from_secs(10)));
    queue.close();
    thread.join().unwrap();
    assert!(
        queue.flush(Duration::ZERO),
        "a closed queue has nothing to wait for"
    );
}

#[test]
fn too_many_names_become_one_epoch_and_flush_still_ends() {
    let queue = opened();
    queue.allow_epochs();
    queue.push(names(10));
    queue.push(names(NOTICES_MAX as u64));
    let mut left = Vec::new();
    while !queue.flush(Duration::ZERO) {
        left.push(queue.next().unwrap());
        queue.delivered();
    }
    assert_eq!(left, [Notice::Epoch, Notice::Attributes(1)]);
    queue.push(names(1));
    assert_eq!(queue.next(), names(1).names.pop());
}

#[test]
fn kernels_without_epochs_get_every_name() {
    let queue = opened();
    queue.push(names(NOTICES_MAX as u64 + 1));
    assert_eq!(queue.next(), names(1).names.pop());
}
