//! What a group's consumers look like on the broker, and what cannot be changed about them.

use agentbus_nats::consumers;
use agentbus_nats::grant::GroupKind;
use agentbus_proto::Code;
use agentbus_tests::Broker;
use agentbus_tests::broker::group;

use super::world::{GROUP, keyed, workers};

#[tokio::test]
async fn another_layout_of_a_known_group_is_refused_and_nothing_is_touched() {
    let broker = Broker::start().await;
    broker.group_with(workers(|_| ())).await;
    for (change, how) in [
        (workers(|group| group.split_lanes = true), "by lanes (lanes: split)"),
        (keyed(GroupKind::Patterns), "by parts (order: key)"),
    ] {
        let refused = consumers::ensure(&*broker.bus, &broker.names, &change).await.unwrap_err();
        assert_eq!(refused.code, Code::BadConfig);
        let wanted = format!("group `{GROUP}` reads in one piece on this broker and cannot be changed to read {how}");
        assert!(refused.message.contains(&wanted), "{}", refused.message);
    }
    let found = consumers::of_group(&*broker.bus, &broker.names, GROUP).await.unwrap();
    assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), [GROUP]);
}

#[tokio::test]
async fn a_group_that_was_ordered_before_pins_existed_gets_one_by_an_update() {
    let broker = Broker::start().await;
    let mut plain = group(GROUP, &["work.>"]);
    broker.group_with(plain.clone()).await;
    plain.ordered = true;
    broker.group_with(plain.clone()).await;
    let found = consumers::of_group(&*broker.bus, &broker.names, GROUP).await.unwrap();
    assert_eq!((found[0].config.max_ack_pending, found[0].config.priority_groups.len()), (1, 1));
    // Again, and nothing changes.
    broker.group_with(plain).await;
}

#[tokio::test]
async fn every_lane_and_part_has_a_consumer() {
    let broker = Broker::start().await;
    for (group, count) in [(workers(|group| group.split_lanes = true), 3), (keyed(GroupKind::Patterns), 17)] {
        let name = format!("{GROUP}-{count}");
        broker.group_with(agentbus_nats::grant::GroupGrant { name: name.clone(), ..group }).await;
        let found = consumers::of_group(&*broker.bus, &broker.names, &name).await.unwrap();
        assert_eq!(found.len(), count);
        assert!(broker.state(&name).await.waiting == 0);
    }
}
