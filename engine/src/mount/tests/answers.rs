use super::*;

#[test]
fn an_answer_is_kept_until_its_file_is_closed() {
    let answers = Answers::new(7);
    assert_eq!(answers.keep(b"one".to_vec()), Some(7));
    assert_eq!(answers.keep(b"two".to_vec()), Some(8));
    assert_eq!(&*answers.get(7).unwrap(), b"one");
    answers.drop(7);
    assert!(answers.get(7).is_none());
    assert_eq!(&*answers.get(8).unwrap(), b"two");
    assert_eq!(answers.held(), 1);
}

#[test]
fn handle_zero_is_never_given() {
    assert_eq!(Answers::new(0).keep(Vec::new()), Some(1));
}

#[test]
fn so_many_are_held_and_no_more() {
    let answers = Answers::new(1);
    for handle in 1..=ANSWERS_MAX as u64 {
        assert_eq!(answers.keep(Vec::new()), Some(handle));
    }
    assert_eq!(answers.keep(Vec::new()), None);
    answers.drop(1);
    assert!(answers.keep(Vec::new()).is_some());
}

#[test]
fn slices_end_where_the_bytes_end() {
    assert_eq!(slice(b"hello", 1, 3), b"ell");
    assert_eq!(slice(b"hello", 3, 100), b"lo");
    assert_eq!(slice(b"hello", 5, 100), b"");
    assert_eq!(slice(b"hello", u64::MAX, usize::MAX), b"");
}
