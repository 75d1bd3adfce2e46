use super::*;

fn row(node: u64, backing: u32, opens: u32) -> Row {
    Row {
        node,
        backing,
        opens,
    }
}

#[test]
fn what_one_process_wrote_the_next_one_finds() {
    let file = tempfile::tempfile().unwrap();
    let mut table = Table::begin(file.try_clone().unwrap()).unwrap();
    let first = table.add(row(1 << 61 | 5, 3, 1));
    let second = table.add(row(7, 0, 2));
    table.add(row(8, 4, 1));
    table.set(first, row(1 << 61 | 5, 3, 6));
    table.remove(second);

    let (mut next, rows) = Table::resume(file.try_clone().unwrap()).unwrap();
    assert_eq!(rows, [(0, row(1 << 61 | 5, 3, 6)), (2, row(8, 4, 1))]);
    assert_eq!(next.add(row(9, 0, 1)), 1, "the free slot is used again");
    assert_eq!(next.add(row(10, 0, 1)), 3);
    assert_eq!(next.errors, 0);
}

#[test]
fn a_fresh_connection_begins_with_an_empty_table() {
    let file = tempfile::tempfile().unwrap();
    Table::begin(file.try_clone().unwrap())
        .unwrap()
        .add(row(7, 1, 1));
    Table::begin(file.try_clone().unwrap()).unwrap();
    assert_eq!(Table::resume(file).unwrap().1, []);
}

#[test]
fn a_torn_tail_is_no_row() {
    let file = tempfile::tempfile().unwrap();
    Table::begin(file.try_clone().unwrap())
        .unwrap()
        .add(row(7, 1, 1));
    file.write_all_at(&[1; 5], 16).unwrap();
    assert_eq!(Table::resume(file).unwrap().1, [(0, row(7, 1, 1))]);
}

#[test]
fn a_table_that_cannot_be_written_is_counted() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let (mut table, _) = Table::resume(File::open(path.path()).unwrap()).unwrap();
    table.add(row(7, 1, 1));
    assert_eq!(table.errors, 1);
}
