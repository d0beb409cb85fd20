//! Agents and channels: the broker itself refuses what is not among an agent's addresses.

use agentbus_nats::identity::Layout;

use super::{Caller, World};

async fn an_agent_publishes_to_its_addresses_only_with_and_without_a_type(layout: Layout) {
    let World { broker, .. } = World::start(layout).await;
    let mut c = Caller::agent(&broker, "c", &["ga"], &["@b", "#eng"]).await;
    for end in ["agent.-.b", "agent.f.b.review.asked.v1", "channel.-.eng", "channel.-.eng.Mixed.Case"] {
        let stored = c.ask(&format!("ab.default.n.c.{end}"), "x").await;
        assert!(stored.contains(r#""stream":"AB_default_EVENTS""#), "{end}: {stored}");
    }
    for subject in [
        "ab.default.n.c.agent.-.a",
        "ab.default.n.c.agent.-.b2",
        "ab.default.n.c.agent.-.a.b",
        "ab.default.n.c.agent.-.eng",
        "ab.default.n.c.agent.b",
        "ab.default.n.c.channel.-.all",
        "ab.default.n.c.channel.-.all.eng",
        "ab.default.n.c.channel.-.b",
        "ab.default.n.c.topic.-.b",
        "ab.default.n.c.topic.-.eng",
        "ab.default.n.a.agent.-.b",
    ] {
        c.refused(subject, "x").await;
    }
    assert_eq!(broker.count(&broker.names.events()).await, 4);
}

async fn all_agents_are_no_channels_and_all_topics_are_no_agents(layout: Layout) {
    let World { broker, .. } = World::start(layout).await;
    let mut wide = Caller::agent(&broker, "wide", &[], &["@*"]).await;
    let mut topics = Caller::agent(&broker, "topics", &[], &[">"]).await;
    for (caller, end) in
        [(&wide, "wide.agent.-.anybody"), (&wide, "wide.agent.-.anybody.t.v1"), (&topics, "topics.topic.-.a.b")]
    {
        let stored = caller.ask(&format!("ab.default.n.{end}"), "x").await;
        assert!(stored.contains(r#""stream":"AB_default_EVENTS""#), "{end}: {stored}");
    }
    for end in ["channel.-.all", "topic.-.anything"] {
        wide.refused(&format!("ab.default.n.wide.{end}"), "x").await;
    }
    for end in ["agent.-.a", "channel.-.all"] {
        topics.refused(&format!("ab.default.n.topics.{end}"), "x").await;
    }
}

async fn nobody_reads_anothers_inbox(layout: Layout) {
    let World { broker, .. } = World::start(layout).await;
    broker.group("b--inbox", &["@b"]).await;
    let mut c = Caller::agent(&broker, "c", &["c--inbox"], &["@b"]).await;
    for verb in ["MSG.NEXT", "INFO"] {
        c.refused(&format!("$JS.API.CONSUMER.{verb}.AB_default_EVENTS.b--inbox"), "").await;
        c.refused(&format!("$JS.API.CONSUMER.{verb}.AB_default_RETRY.b--inbox-retry"), "").await;
    }
    c.refused("$JS.ACK.AB_default_EVENTS.b--inbox.1.1.1.1.0", "+ACK").await;
    c.refused("abr.default.b--inbox.c", "x").await;
    c.refused("abd.default.b--inbox.c.REJECTED", "x").await;
    c.deaf("ab.default.n.*.agent.-.b").await;
    assert_eq!(broker.state("b--inbox").await.in_flight, 0);
}

in_both! {
    an_agent_publishes_to_its_addresses_only_with_and_without_a_type,
    all_agents_are_no_channels_and_all_topics_are_no_agents,
    nobody_reads_anothers_inbox,
}
