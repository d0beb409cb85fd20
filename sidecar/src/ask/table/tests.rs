//! What an asker hears of the replies to its asks.

use super::super::room::BYTES_MAX;
use super::*;

fn reply(from: &str, run: &str, index: u32, last: bool) -> Reply {
    let group = run.split('/').next().unwrap_or_default().to_owned();
    let info =
        ReplyInfo { request_id: "q".into(), index, r#final: last, group, run: run.to_owned(), ..ReplyInfo::default() };
    let head = EventHead { source: from.to_owned(), reply: Some(info.clone()), ..EventHead::default() };
    Reply { event: Bytes::new(), head, info, context: None, share: None }
}

fn table(answerers: Answerers) -> Table<()> {
    let mut table = Table::new();
    table.open("q", answerers, SystemTime::UNIX_EPOCH, ()).unwrap();
    table
}

/// Indices handed on; what is not ready by its name.
fn take(table: &mut Table<()>, reply: Reply) -> String {
    match table.take(reply) {
        Taken::Ready { replies, .. } => {
            let text = |reply: &Reply| format!("{}{}", reply.info.index, if reply.info.r#final { "!" } else { "" });
            replies.iter().map(text).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn replies_are_heard_once_and_in_order_however_they_come() {
    let mut table = table(Answerers::Anybody);
    for (index, last, heard) in [
        (1, false, "Ahead"),
        (0, false, "0 1"),
        (0, false, "Passed"),
        (1, false, "Passed"),
        (3, true, "Ahead"),
        (3, true, "Passed"),
        (2, false, "2 3!"),
        (3, true, "Unasked"),
    ] {
        assert_eq!(take(&mut table, reply("b", "g/1", index, last)), heard, "{index}");
    }
    assert_eq!(table.waiting(), []);
}

#[test]
fn only_who_was_asked_is_heard() {
    let names = [("a", "spare"), ("spare", "last"), ("last", "a"), ("b", "")];
    let directory = Directory {
        agents: names.map(|(name, fallback)| (name.to_owned(), fallback.to_owned())).into(),
        pools: [("p".to_owned(), vec!["b".to_owned(), "c".to_owned()])].into(),
        ..Directory::default()
    };
    let check = |to: &str, from: &str, heard: &str| {
        let mut table = table(Answerers::of(&to.parse().unwrap(), &directory));
        assert_eq!(take(&mut table, reply(from, "g/1", 0, true)), heard, "{to} {from}");
    };
    check("@a", "a", "0!");
    check("@a", "spare", "0!");
    check("@a", "last", "0!");
    check("@a", "b", "Foreign");
    check("@b", "", "Foreign");
    check("@p", "b", "0!");
    check("@p", "c", "0!");
    check("@p", "a", "Foreign");
    check("notes.created", "a", "0!");
    check("#all", "a", "0!");
}

#[test]
fn another_handling_by_the_same_group_begins_anew() {
    let mut table = table(Answerers::Anybody);
    assert_eq!(take(&mut table, reply("b", "g/1", 0, false)), "0");
    assert_eq!(take(&mut table, reply("b", "g/1", 1, false)), "1");
    assert_eq!(take(&mut table, reply("c", "g/2", 0, false)), "0");
    // Late words of the first one, and of one that was never heard.
    assert_eq!(take(&mut table, reply("b", "g/1", 2, true)), "Passed");
    assert_eq!(take(&mut table, reply("b", "g/0", 0, true)), "Passed");
    assert_eq!(take(&mut table, reply("c", "g/2", 1, true)), "1!");
}

#[test]
fn of_several_groups_the_first_to_reply_is_heard() {
    let mut table = table(Answerers::Anybody);
    assert_eq!(take(&mut table, reply("b", "g/1", 0, false)), "0");
    assert_eq!(take(&mut table, reply("c", "h/1", 0, true)), "Passed");
    assert_eq!(take(&mut table, reply("b", "g/1", 1, true)), "1!");
}

#[test]
fn asks_and_replies_that_wait_are_bounded() {
    let mut table: Table<()> = Table::new();
    for n in 0..ASKS_MAX {
        table.open(&n.to_string(), Answerers::Anybody, SystemTime::UNIX_EPOCH, ()).unwrap();
    }
    let open = |table: &mut Table<()>, id: &str| {
        table.open(id, Answerers::Anybody, SystemTime::UNIX_EPOCH, ()).map_err(|fault| fault.code)
    };
    assert_eq!(open(&mut table, "7"), Err(Code::InvalidEvent));
    assert_eq!(open(&mut table, "q"), Err(Code::RateLimited));
    table.close("7", 7);
    assert_eq!(open(&mut table, "q"), Ok(ASKS_MAX as u64));
    for index in 1..=2 * AHEAD_MAX as u32 {
        assert_eq!(take(&mut table, reply("b", "g/1", index, false)), "Ahead");
    }
    let Taken::Ready { replies, .. } = table.take(reply("b", "g/1", 0, false)) else { panic!() };
    // The rest is found when missed ones are looked for.
    assert_eq!(replies.len(), AHEAD_MAX + 1);
}

#[test]
fn who_waited_for_an_ask_does_not_end_a_later_one_with_the_same_id() {
    let mut table: Table<()> = Table::new();
    let open = |table: &mut Table<()>| table.open("q", Answerers::Anybody, SystemTime::UNIX_EPOCH, ()).unwrap();
    let first = open(&mut table);
    assert_eq!(take(&mut table, reply("b", "g/1", 0, true)), "0!");
    let second = open(&mut table);
    table.close("q", first);
    assert_eq!(take(&mut table, reply("b", "g/1", 0, true)), "0!", "the second one still waits");
    open(&mut table);
    table.close("q", second);
    assert_eq!(table.waiting().len(), 1);
}

#[test]
fn replies_that_nobody_reads_end_their_ask_and_let_no_other_begin() {
    let mut table: Table<()> = Table::new();
    for id in ["q", "other"] {
        table.open(id, Answerers::Anybody, SystemTime::UNIX_EPOCH, ()).unwrap();
    }
    let large = |index| Reply { event: vec![0; BYTES_MAX / 8].into(), ..reply("b", "g/1", index, false) };
    let mut unread = Vec::new();
    let mut index = 0;
    let fault = loop {
        if let Err(fault) = table.open("late", Answerers::Anybody, SystemTime::UNIX_EPOCH, ()) {
            break fault;
        }
        table.asks.remove("late");
        let Taken::Ready { replies, .. } = table.take(large(index)) else { panic!("room for {index}") };
        unread.extend(replies);
        index += 1;
    };
    assert!(fault.code == Code::RateLimited && fault.retry_after.is_some(), "{fault}");
    // The asks that wait have the rest.
    while let Taken::Ready { replies, .. } = table.take(large(index)) {
        unread.extend(replies);
        index += 1;
    }
    assert_eq!(table.waiting().len(), 1, "the one whose reply found no room is over");
    unread.clear();
    assert!(table.open("late", Answerers::Anybody, SystemTime::UNIX_EPOCH, ()).is_ok());
}

#[test]
fn a_failure_names_who_failed_and_how() {
    let mut failed = reply("b", "g/1", 0, true);
    assert_eq!(failed.failure(), None);
    failed.info.error_code = "NO_SUCH_FILE".into();
    assert_eq!(failed.failure().unwrap().to_string(), "REPLY_FAILED: `@b` replied NO_SUCH_FILE");
    failed.info.error_message = "a.txt".into();
    assert_eq!(failed.failure().unwrap().message, "`@b` replied NO_SUCH_FILE: a.txt");
}

#[test]
fn replies_that_wait_for_one_before_them_have_a_bound() {
    let mut table = table(Answerers::Anybody);
    let large = |index| Reply { event: vec![0; AHEAD_BYTES_MAX / 4].into(), ..reply("b", "g/1", index, index == 5) };
    for index in 1..=5 {
        assert_eq!(take(&mut table, large(index)), "Ahead");
    }
    // The fifth was not kept; it is stored, and comes again.
    assert_eq!(take(&mut table, large(0)), "0 1 2 3 4");
    assert_eq!(take(&mut table, large(5)), "5!");
}
