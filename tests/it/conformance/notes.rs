//! What is not stored: asking, answering, listening.

use std::time::{Duration, Instant};

use agentbus_nats::bus::{Note, Subscription};
use agentbus_proto::Code;
use agentbus_tests::wait::PATIENCE;

use super::stage::{Kind, Stage, message, subject};

async fn heard(subscription: &mut Subscription) -> Note {
    tokio::time::timeout(PATIENCE, subscription.next()).await.expect("a note").expect("listening")
}

pub async fn an_ask_is_answered_once(kind: Kind) {
    let stage = Stage::new(kind).await;
    let (bus, wait) = (&stage.bus, Duration::from_secs(5));
    let since = Instant::now();
    let unheard = bus.request("abc.default.a.verb", "?".into(), wait).await.unwrap_err();
    assert!(unheard.code == Code::BrokerDown && since.elapsed() < wait, "nobody listens: said at once");
    let mut served = bus.subscribe("abc.default.*.*", Some("control-plane")).await.unwrap();
    bus.round_trip().await.unwrap();
    let answering = async {
        let asked = heard(&mut served).await;
        assert_eq!((&*asked.subject, &asked.payload[..]), ("abc.default.a.verb", &b"?"[..]));
        bus.send_note(&asked.reply.expect("a reply subject"), None, "yes".into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(bus.request("abc.default.a.verb", "?".into(), wait), answering);
    assert_eq!(answer.unwrap().payload, "yes");
    let short = Duration::from_millis(200);
    assert_eq!(bus.request("abc.default.a.verb", "?".into(), short).await.unwrap_err().code, Code::BrokerDown);
}

pub async fn a_queue_group_shares(kind: Kind) {
    let stage = Stage::new(kind).await;
    let bus = &stage.bus;
    let mut alone = bus.subscribe("svc.>", None).await.unwrap();
    let mut members =
        [bus.subscribe("svc.*", Some("g")).await.unwrap(), bus.subscribe("svc.*", Some("g")).await.unwrap()];
    bus.round_trip().await.unwrap();
    for _ in 0..20 {
        bus.send_note("svc.x", None, "x".into()).await.unwrap();
    }
    for _ in 0..20 {
        heard(&mut alone).await;
    }
    bus.round_trip().await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let counts = members.each_mut().map(|member| std::iter::from_fn(|| member.try_next()).count());
    assert_eq!(counts.iter().sum::<usize>(), 20, "each note to one member: {counts:?}");
}

pub async fn what_is_stored_is_heard(kind: Kind) {
    let stage = Stage::new(kind).await;
    let mut listening = stage.bus.subscribe("ab.default.*.*.topic.>", None).await.unwrap();
    stage.bus.round_trip().await.unwrap();
    stage.bus.store(message("notes", "x", "id-1")).await.unwrap();
    let note = heard(&mut listening).await;
    assert_eq!((note.subject.to_string(), &note.payload[..]), (subject("notes"), &b"x"[..]));
    let id = agentbus_nats::headers::get(Some(&note.headers), agentbus_nats::headers::MSG_ID);
    assert_eq!(id, Some("id-1"));
}
