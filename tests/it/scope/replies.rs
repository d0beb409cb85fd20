//! Replies: everybody may answer in its own name, and hears only what is for itself.

use agentbus_nats::identity::Layout;
use agentbus_nats::subject;
use agentbus_tests::wait::PATIENCE;
use futures_util::StreamExt;

use super::{Caller, World, round_trip};

async fn nobody_replies_in_anothers_name_or_listens_to_anothers_replies(layout: Layout) {
    let World { broker, mut a } = World::start(layout).await;
    a.refused(&subject::reply("default", "b", "a", "q"), "forged").await;
    a.refused(&subject::reply("other", "a", "b", "q"), "another namespace").await;
    // Exactly one asker and one request behind it.
    a.refused("ab.default.n.a.reply.-.b", "no request").await;
    a.refused("ab.default.n.a.reply.-.b.q.more", "too much").await;
    a.refused("ab.default.n.a.reply.0.b.q", "a part").await;
    for subject in [
        subject::replies("default", "b").as_str(),
        "ab.default.*.*.reply.-.>",
        "ab.default.*.*.reply.-.*.>",
        "ab.default.n.b.reply.-.b.q",
        "ab.default.>",
        "ab.*.*.*.reply.-.a.>",
    ] {
        a.deaf(subject).await;
    }
    drop(broker);
}

async fn a_reply_needs_no_grant_and_reaches_its_asker(layout: Layout) {
    let World { broker, a } = World::start(layout).await;
    let b = Caller::agent(&broker, "b", &["gb"], &[]).await;
    let mut heard = b.link.client.subscribe(b.spell(&subject::replies("default", "b"))).await.expect("sent");
    round_trip(&b.link).await;
    let stored = a.ask(&subject::reply("default", "a", "b", "q"), "yes").await;
    assert!(stored.contains(r#""stream":"AB_default_EVENTS""#), "{stored}");
    let note = tokio::time::timeout(PATIENCE, heard.next()).await.expect("in time").expect("a reply");
    assert_eq!(
        (b.link.layout().read(&note.subject), note.payload.as_ref()),
        ("ab.default.n.a.reply.-.b.q", &b"yes"[..])
    );
}

in_both! {
    nobody_replies_in_anothers_name_or_listens_to_anothers_replies,
    a_reply_needs_no_grant_and_reaches_its_asker,
}
