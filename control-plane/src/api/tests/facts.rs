//! What is stated about redrives, and what is known of it: when the audit stream is full, small, or lost, and after a crash.

use super::*;

#[tokio::test]
async fn what_was_redriven_stays_known_when_the_audit_stream_is_lost() {
    let bench = Bench::start().await;
    for seq in 1..=3 {
        bench.give_up(seq, "readers", Class::Exhausted, "boom", 0, event()).await;
    }
    let api = bench.serve().await;
    api.redrive(json!({"seqs": [1]})).await;
    assert_eq!(seqs(&api.get::<Page>("/v1/dead-letters").await), [2, 3]);
    bench.context.delete_stream(bench.names.audit()).await.unwrap();
    plan::apply(&*bench.bus, &bench.names, &sizes()).await.unwrap();
    assert_eq!(seqs(&api.get::<Page>("/v1/dead-letters").await), [2, 3]);
    // The new fact has the number of the old one.
    api.redrive(json!({"seqs": [2]})).await;
    assert_eq!(seqs(&api.get::<Page>("/v1/dead-letters").await), [3]);
}

#[tokio::test]
async fn a_full_audit_stream_is_trimmed_behind_a_snapshot_and_nothing_is_redriven_twice() {
    const LETTERS: u64 = 40;
    let bench = Bench::start().await;
    for seq in 1..=LETTERS {
        bench.give_up(seq, "readers", Class::Exhausted, "boom", 0, event()).await;
    }
    // Room for a few redrives, and somebody else's facts in it.
    bench.bound("AB_default_AUDIT", 8 << 10).await;
    bench.fill("aba.default.agent.exited.v1").await;
    let api = bench.serve().await;
    let all = json!({"all": true, "rate": 10_000});
    let report = api.redrive(all.clone()).await;
    let done = report.letters.iter().filter(|one| matches!(one.outcome, Outcome::Redriven { recorded: true, .. }));
    assert_eq!(done.count() as u64, LETTERS, "{report:?}");
    let sent = async || bench.state("AB_default_RETRY").await.messages;
    assert_eq!(sent().await, LETTERS);
    assert!(bench.state("AB_default_AUDIT").await.first_sequence > LETTERS, "old facts went");
    // The same control plane, and one that knows only what is stored.
    for api in [api, bench.serve().await] {
        bench.fill("aba.default.agent.exited.v1").await;
        assert!(api.redrive(all.clone()).await.letters.is_empty());
        let report = api.redrive(json!({"seqs": [1, LETTERS]})).await;
        assert_eq!([0, 1].map(|at| reason(&report, at)), [Some(Refusal::AlreadyRedriven); 2], "{report:?}");
        let page: Page = api.get("/v1/dead-letters?all=true").await;
        assert!(page.letters.iter().all(|letter| letter.redriven.as_ref().is_some_and(|last| last.count == 1)));
        assert_eq!(sent().await, LETTERS, "nothing is sent twice");
    }
}

#[tokio::test]
async fn a_redrive_that_cannot_be_stated_does_not_happen() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    bench.bound("AB_default_AUDIT", 100).await;
    let api = bench.serve().await;
    let report = api.redrive(json!({"all": true})).await;
    assert!(matches!(&report.letters[0].outcome, Outcome::Failed { code, .. } if code == "STREAM_FULL"), "{report:?}");
    assert!(report.stopped.is_some(), "{report:?}");
    assert_eq!(bench.state("AB_default_RETRY").await.messages, 0);
}

#[tokio::test]
async fn a_copy_that_is_refused_leaves_the_letter_open() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    bench.bound("AB_default_RETRY", 100).await;
    let api = bench.serve().await;
    let report = api.redrive(json!({"all": true})).await;
    assert!(matches!(&report.letters[0].outcome, Outcome::Failed { code, .. } if code == "STREAM_FULL"), "{report:?}");
    let page: Page = api.get("/v1/dead-letters").await;
    assert_eq!((page.letters[0].redriven.is_none(), &page.letters[0].unfinished), (true, &None));
    bench.bound("AB_default_RETRY", 1 << 20).await;
    let report = api.redrive(json!({"all": true})).await;
    assert!(matches!(report.letters[0].outcome, Outcome::Redriven { new_seq: 1, .. }), "{report:?}");
}

#[tokio::test]
async fn what_a_crash_left_unfinished_is_seen_and_not_sent_again_by_itself() {
    let bench = Bench::start().await;
    bench.give_up(1, "readers", Class::Exhausted, "boom", 0, event()).await;
    let api = bench.serve().await;
    api.redrive(json!({"all": true})).await;
    // The last fact is the one that says that it was sent: as if it had never been stored.
    let audit = bench.context.get_stream("AB_default_AUDIT").await.unwrap();
    audit.delete_message(2).await.unwrap();
    let api = bench.serve().await;
    let page: Page = api.get("/v1/dead-letters").await;
    assert!(page.letters[0].unfinished.is_some() && page.letters[0].redriven.is_none(), "{page:?}");
    let report = api.redrive(json!({"all": true})).await;
    assert_eq!(reason(&report, 0), Some(Refusal::Unfinished));
    assert_eq!(bench.state("AB_default_RETRY").await.messages, 1);
    // The same decision has the same id: within the broker's window it is still sent once.
    let report = api.redrive(json!({"all": true, "force": true})).await;
    assert!(matches!(report.letters[0].outcome, Outcome::Redriven { new_seq: 1, .. }), "{report:?}");
    assert_eq!(bench.state("AB_default_RETRY").await.messages, 1);
    assert!(api.get::<Page>("/v1/dead-letters").await.letters.is_empty());
}
