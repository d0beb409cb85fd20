//! One suite of behaviours, run on every backend of the bus: what holds on a broker, in either layout, holds in this process,
//! and the other way round. Behaviours are written once, against `dyn Bus` and the sidecar library; a backend is a way to make a `Stage`.

mod embed;
mod flow;
mod history;
mod keys;
mod later;
mod notes;
mod stage;
mod store;
mod take;

/// Every behaviour as a test of every backend.
macro_rules! on_all {
    ($($module:ident: [$($behaviour:ident),* $(,)?]),* $(,)?) => {
        mod jetstream {
            $(mod $module {
                $(#[tokio::test]
                async fn $behaviour() {
                    Box::pin(crate::conformance::$module::$behaviour(crate::conformance::stage::Kind::JetStream)).await;
                })*
            })*
        }

        mod wall {
            $(mod $module {
                $(#[tokio::test]
                async fn $behaviour() {
                    Box::pin(crate::conformance::$module::$behaviour(crate::conformance::stage::Kind::Wall)).await;
                })*
            })*
        }

        mod memory {
            $(mod $module {
                $(#[tokio::test]
                async fn $behaviour() {
                    Box::pin(crate::conformance::$module::$behaviour(crate::conformance::stage::Kind::Memory)).await;
                })*
            })*
        }
    };
}

on_all! {
    store: [
        an_id_is_stored_once,
        a_full_stream_refuses_and_takes_again,
        what_is_too_large_is_said_so,
        a_subject_without_a_stream_is_not_stored,
        a_batch_is_whole_or_nothing,
        a_purge_takes_what_it_is_told_to,
        assets_are_made_once_and_described,
        pages_go_by_number_time_and_filter,
    ],
    take: [
        an_unsettled_delivery_comes_again,
        a_delay_is_kept,
        work_in_progress_stays_away,
        one_at_a_time_keeps_the_order,
        filters_choose,
        a_consumer_begins_where_it_was_told_to,
        a_retry_is_gone_when_it_is_settled,
        consumers_tell_where_they_are,
        overlapping_filters_are_refused,
        demand_is_kept,
    ],
    keys: [
        keys_have_revisions,
        a_watch_tells_what_is_there_and_what_changes,
    ],
    notes: [
        an_ask_is_answered_once,
        a_queue_group_shares,
        what_is_stored_is_heard,
    ],
    flow: [
        an_event_is_delivered_and_settled,
        every_group_gets_every_event,
        a_nack_is_a_retry,
        what_keeps_failing_is_a_dead_letter,
        a_reject_is_a_dead_letter,
        an_ordered_group_keeps_the_order_under_nacks,
        order_by_key_holds_under_nacks,
        what_a_gone_agent_held_goes_to_another,
        what_an_ack_emits_is_stored_first,
    ],
    history: [
        the_status_of_an_event_is_told_per_group,
        a_replay_reaches_the_group_it_is_for,
        a_redriven_dead_letter_is_delivered_again,
        the_system_tells_its_state,
    ],
    later: [
        a_scheduled_event_comes_when_it_is_due_and_only_once,
        an_ask_gets_its_reply,
        split_lanes_lose_nothing,
    ],
}
