//! The permission list of a sidecar, line by line: what its work needs, and everything else.

use agentbus_nats::headers;
use agentbus_nats::identity::Layout;
use agentbus_tests::wait::{PATIENCE, until};
use async_nats::HeaderMap;
use futures_util::{FutureExt, StreamExt};

use super::{Caller, World};

const EVENTS: &str = "AB_default_EVENTS";
const RETRY: &str = "AB_default_RETRY";
const DLQ: &str = "AB_default_DLQ";

/// A wait with an end.
async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

async fn an_agent_may_do_its_work(layout: Layout) {
    let World { broker, mut a } = World::start(layout).await;
    for lane in ["h", "n", "l"] {
        let stored = a.ask(&format!("ab.default.{lane}.a.topic.-.notes.created"), "x").await;
        assert!(stored.contains(r#""stream":"AB_default_EVENTS""#), "{stored}");
    }
    let upper = a.ask("ab.default.n.a.topic.f.Mixed.Case", "x").await;
    assert!(upper.contains(r#""seq":4"#), "a tag keeps its case: {upper}");
    for (stream, consumer) in [(EVENTS, "ga"), (RETRY, "ga-retry")] {
        let info = a.ask(&format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}"), "").await;
        assert!(info.contains(r#""stream_name""#), "{info}");
    }
    for subject in ["abr.default.ga.a", "abd.default.ga.a.EXHAUSTED"] {
        let stored = a.ask(subject, "x").await;
        assert!(stored.contains(r#""seq":1"#), "{subject}: {stored}");
    }
    let mut pulled = a.link.client.subscribe("_INBOX.a.a.pull").await.unwrap();
    a.pull_one("ga", "_INBOX.a.a.pull").await;
    let reply = within(pulled.next()).await.unwrap().reply.expect("a delivery");
    a.allowed(&reply, "+ACK").await;
    // Both forms of ack subjects: as this server writes them, and with domain and account, which no import takes.
    a.allowed("$JS.ACK.AB_default_RETRY.ga-retry.1.1.1.1.0", "+WPI").await;
    for long in [
        "$JS.ACK.hub.hash.AB_default_RETRY.ga-retry.1.1.1.1.0",
        "$JS.ACK.hub.hash.AB_default_EVENTS.ga.1.1.1.1.0.token",
    ] {
        match layout {
            Layout::Plain => a.allowed(long, "+WPI").await,
            Layout::Wall => a.refused(long, "+WPI").await,
        }
    }
    let left = until("ack", || async {
        let state = broker.state("ga").await;
        if state.in_flight == 0 { Ok(state.lag) } else { Err(state) }
    });
    assert_eq!(left.await, 2, "of three events one is taken and acked");
}

async fn an_agent_may_ask_the_control_plane_and_hear_the_answer(layout: Layout) {
    let World { broker, a } = World::start(layout).await;
    let mut control = broker.link.client.subscribe("abc.default.a.*").await.unwrap();
    super::round_trip(&broker.link).await;
    assert_eq!(within(control.next()).await.unwrap().subject.as_str(), "abc.default.a.round-trip");
    let answer = tokio::spawn(async move { a.ask("abc.default.a.renew", "?").await });
    let question = within(control.next()).await.unwrap();
    let reply = question.reply.expect("a reply subject");
    assert!(layout.may_answer("a", &reply), "{reply}");
    broker.link.client.publish(reply, "!".into()).await.unwrap();
    assert_eq!(answer.await.unwrap(), "!");
}

async fn everything_else_is_refused_by_name(layout: Layout) {
    let World { broker, mut a } = World::start(layout).await;
    let _b = Caller::agent(&broker, "b", &["gb"], &["notes.>"]).await;
    for subject in [
        // Another sender, a topic or a class that is not granted, another namespace.
        "ab.default.n.b.topic.-.notes.created",
        "ab.default.n.a.topic.-.other",
        "ab.default.n.a.topic.-.notes",
        "ab.default.n.a.topic.-.mixed.case",
        "ab.default.n.a.agent.-.b.notes",
        "ab.default.n.a.channel.-.all.notes",
        "ab.default.n.b.reply.-.a.1",
        "ab.other.n.a.topic.-.notes.created",
        // Retries and dead letters of another group or under another name.
        "abr.default.gb.a",
        "abr.default.ga.b",
        "abt.default.gb.a.1",
        "abt.default.ga.b.1",
        "abt.default.ga.a",
        "abd.default.gb.a.EXHAUSTED",
        "abd.default.ga.b.EXHAUSTED",
        "abd.default.ga.a.EXHAUSTED.more",
        // Facts, schedules, others' requests to the control plane, the registry.
        "aba.default.agent.exited.v1",
        "abq.default.a",
        "abq.default.b",
        "abs.default.s.a.1",
        "abs.default.due.1.n.a.topic.-.notes.created",
        "abc.default.b.renew",
        "abc.default.a.renew.more",
        "$KV.AB_default_REGISTRY.a",
        // Others' inboxes, and one's own: only the broker and the control plane answer.
        "_INBOX.b.b.1",
        "_INBOX.a.a.1",
        "anything",
    ] {
        a.refused(subject, "x").await;
    }
    for stream in ["events", "retry", "dead_letters"] {
        let names = &broker.names;
        let name = match stream {
            "events" => names.events(),
            "retry" => names.retry(),
            _ => names.dead_letters(),
        };
        assert_eq!(broker.count(&name).await, 0, "{name}");
    }
}

async fn the_jetstream_api_is_closed_but_for_the_own_consumers(layout: Layout) {
    let World { broker, mut a } = World::start(layout).await;
    let verbs = ["STREAM.INFO", "STREAM.PURGE", "STREAM.DELETE", "STREAM.UPDATE", "STREAM.CREATE", "STREAM.MSG.GET"];
    let more =
        ["STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "CONSUMER.NAMES", "CONSUMER.LIST", "DIRECT.GET", "CONSUMER.CREATE"];
    for verb in verbs.iter().chain(&more) {
        for stream in [EVENTS, RETRY, DLQ, "KV_AB_default_REGISTRY"] {
            a.refused(&format!("$JS.API.{verb}.{stream}"), "").await;
        }
    }
    for (stream, consumer) in [(EVENTS, "gb"), (RETRY, "gb-retry"), (RETRY, "ga"), (EVENTS, "ga-retry"), (DLQ, "ga")] {
        // Letting go of a pin is a matter of the own consumers, too.
        for verb in ["MSG.NEXT", "INFO", "UNPIN"] {
            a.refused(&format!("$JS.API.CONSUMER.{verb}.{stream}.{consumer}"), "").await;
        }
        a.refused(&format!("$JS.ACK.{stream}.{consumer}.1.1.1.1.0"), "+ACK").await;
        a.refused(&format!("$JS.ACK.hub.hash.{stream}.{consumer}.1.1.1.1.0"), "+ACK").await;
    }
    for verb in ["DURABLE.CREATE", "DELETE", "CREATE", "PAUSE", "RESET"] {
        a.refused(&format!("$JS.API.CONSUMER.{verb}.{EVENTS}.ga"), "").await;
    }
    for subject in ["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.ACCOUNT.PURGE.x"] {
        a.refused(subject, "").await;
    }
    a.refused("$JS.API.CONSUMER.CREATE.AB_default_EVENTS.x.ab.default.>", "").await;
    a.refused("$JS.API.DIRECT.GET.AB_default_EVENTS.ab.default.>", "").await;
    a.refused("$JS.FC.AB_default_EVENTS.x", "").await;
    assert_eq!(broker.state("ga").await.lag, 0);
}

async fn nobody_settles_or_takes_what_another_group_holds(layout: Layout) {
    let World { broker, mut a } = World::start(layout).await;
    let b = Caller::agent(&broker, "b", &["gb"], &["notes.>"]).await;
    b.ask("ab.default.n.b.topic.-.notes.created", "one").await;
    b.ask("ab.default.n.b.topic.-.notes.created", "two").await;
    let mut held = b.link.client.subscribe("_INBOX.b.b.pull").await.unwrap();
    b.pull_one("gb", "_INBOX.b.b.pull").await;
    let delivery = within(held.next()).await.unwrap().reply.expect("a delivery");
    // An ack subject of `gb` in which the own stream and group stand where numbers are expected.
    let disguised = [
        "$JS.ACK.AB_default_EVENTS.gb.AB_default_EVENTS.ga.1.1.1",
        "$JS.ACK.AB_default_EVENTS.gb.AB_default_EVENTS.ga.1.1.1.1",
        "$JS.ACK.AB_default_RETRY.gb-retry.AB_default_RETRY.ga-retry.1.1.1",
        "$JS.ACK.AB_default_EVENTS.ga.1.1.1.1.0.1",
        "$JS.ACK.AB_default_EVENTS.ga.1.1.1.1",
        "$JS.ACK.AB_default_EVENTS.ga",
        "$JS.ACK.hub.hash.AB_default_EVENTS.ga.1.1.1.1.0.1.1",
        delivery.as_str(),
    ];
    for subject in disguised {
        for word in ["+NXT", "+ACK", "-NAK", "+TERM", "+WPI"] {
            a.refused(subject, word).await;
        }
    }
    let state = broker.state("gb").await;
    assert_eq!((state.in_flight, state.lag, state.redelivered), (1, 1, 0), "untouched: {state:?}");
}

async fn an_agent_hears_its_own_inbox_only(layout: Layout) {
    let World { broker, mut a } = World::start(layout).await;
    for subject in [
        "_INBOX.b.>",
        "_INBOX.>",
        ">",
        "ab.>",
        "ab.default.n.a.>",
        "abc.default.a.renew",
        "aba.>",
        "abq.default.b",
        "abq.>",
        "$JS.>",
    ] {
        a.deaf(subject).await;
    }
    let mut own = a.link.client.subscribe("_INBOX.a.a.mine").await.unwrap();
    let mut asked = a.link.client.subscribe(a.spell("abq.default.a")).await.unwrap();
    a.quiet("own inbox, own questions").await;
    for subject in ["_INBOX.a.a.mine", "abq.default.b", "abq.default.a"] {
        broker.link.client.publish(subject, subject.into()).await.unwrap();
    }
    assert_eq!(within(asked.next()).await.unwrap().payload, "abq.default.a");
    match layout {
        Layout::Plain => assert_eq!(within(own.next()).await.unwrap().payload, "_INBOX.a.a.mine"),
        // Nobody of the other account speaks on it: it was sent before the question.
        Layout::Wall => assert!(own.next().now_or_never().is_none()),
    }
}

async fn a_rollup_header_wipes_nothing(layout: Layout) {
    let World { broker, a } = World::start(layout).await;
    let subjects = ["ab.default.n.a.topic.-.notes.created", "abr.default.ga.a", "abd.default.ga.a.REJECTED"];
    for subject in subjects {
        a.ask(subject, "first").await;
        a.ask(subject, "second").await;
        for how in ["all", "sub"] {
            let mut harm = HeaderMap::new();
            harm.insert("Nats-Rollup", how);
            harm.insert(headers::MSG_ID, format!("{subject}/{how}"));
            let answer = a.link.client.request_with_headers(a.spell(subject), harm, "third".into()).await.unwrap();
            let answer = String::from_utf8_lossy(&answer.payload).into_owned();
            assert!(answer.contains("error") && answer.contains("rollup"), "{subject}: {answer}");
        }
    }
    for stream in [EVENTS, RETRY, DLQ] {
        assert_eq!(broker.count(stream).await, 2, "{stream}");
    }
}

async fn an_agent_without_groups_and_topics_may_only_talk_to_the_control_plane(layout: Layout) {
    let World { broker, .. } = World::start(layout).await;
    let mut mute = Caller::agent(&broker, "mute", &[], &[]).await;
    for subject in [
        "ab.default.n.mute.topic.-.notes.created",
        "ab.default.n.mute.x",
        "abr.default.ga.mute",
        "abd.default.ga.mute.CRASH",
        "$JS.API.CONSUMER.MSG.NEXT.AB_default_EVENTS.ga",
        "$JS.API.CONSUMER.INFO.AB_default_RETRY.ga-retry",
        "$JS.API.CONSUMER.INFO.AB_default_RETRY.-retry",
        "$JS.ACK.AB_default_EVENTS.ga.1.1.1.1.0",
    ] {
        mute.refused(subject, "").await;
    }
    let nobody = mute.link.client.request(mute.spell("abc.default.mute.subscribe"), "".into()).await.unwrap_err();
    assert_eq!(nobody.kind(), async_nats::RequestErrorKind::NoResponders, "asked, and nobody is there to answer");
}

in_both! {
    an_agent_may_do_its_work,
    an_agent_may_ask_the_control_plane_and_hear_the_answer,
    everything_else_is_refused_by_name,
    the_jetstream_api_is_closed_but_for_the_own_consumers,
    nobody_settles_or_takes_what_another_group_holds,
    an_agent_hears_its_own_inbox_only,
    a_rollup_header_wipes_nothing,
    an_agent_without_groups_and_topics_may_only_talk_to_the_control_plane,
}
