//! Requests against levels with few seats.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::estimate::Work;
use super::level::Limits;
use super::*;

fn object(value: Value) -> api::Object {
    api::Object::from_value(value).unwrap()
}

fn flow(seats: usize, queues: Option<(usize, usize, usize)>) -> Flow {
    let response = match queues {
        None => json!({"type": "Reject"}),
        Some((queues, hand, length)) => {
            json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
        }
    };
    let flow = Flow::new(&crate::Limits::default());
    let level = json!({"metadata": {"name": "low", "uid": "level"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": response,
    }}});
    let schema = json!({"metadata": {"name": "users", "uid": "schema"}, "spec": {
        "matchingPrecedence": 100, "priorityLevelConfiguration": {"name": "low"},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "*"}}],
                   "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}],
    }});
    flow.digest(&[object(level)], &[object(schema)]);
    let limits = Limits { nominal: seats, lower: seats, upper: seats, current: seats };
    flow.config.load().levels["low"].level.set_limits(limits);
    flow
}

fn info() -> Arc<RequestInfo> {
    Arc::new(RequestInfo::parse(&http::Method::GET, "/version", &Query::default()).unwrap())
}

fn ask(flow: &Flow, user: &str, seats: u64) -> Asked {
    let (info, user) = (info(), UserInfo::new(user, &[]));
    let schema = flow.classify(&info, &user).unwrap();
    let work = Work { initial: seats, last: 0, additional: Duration::ZERO };
    let about = Running {
        queue: None,
        work,
        schema: Arc::clone(&schema.name),
        flow: user.name.as_str().into(),
        user: user.name.as_str().into(),
        info,
        arrived: jiff::Timestamp::UNIX_EPOCH,
        started: None,
    };
    Level::ask(&schema, about, mix(base::hash::fnv64a(user.name.as_bytes())), false)
}

fn running(asked: Asked) -> Ticket {
    match asked {
        Asked::Running(ticket) => ticket,
        Asked::Waiting(..) => panic!("it waits"),
        Asked::Refused(refusal) => panic!("{refusal:?}"),
    }
}

fn waiting(asked: Asked) -> (Ticket, oneshot::Receiver<()>) {
    match asked {
        Asked::Waiting(ticket, go) => (ticket, go),
        Asked::Running(_) => panic!("it runs"),
        Asked::Refused(refusal) => panic!("{refusal:?}"),
    }
}

fn refused(asked: Asked) -> Refusal {
    match asked {
        Asked::Refused(refusal) => refusal,
        _ => panic!("it was let in"),
    }
}

#[tokio::test(start_paused = true)]
async fn schemas_are_tried_in_their_order_and_the_last_takes_the_rest() {
    let flow = flow(1, None);
    let named = |user: &UserInfo, path: &str| {
        let info = RequestInfo::parse(&http::Method::GET, path, &Query::default()).unwrap();
        flow.classify(&info, user).unwrap().name.to_string()
    };
    assert_eq!(named(&UserInfo::new("ann", &[]), "/version"), "users");
    assert_eq!(named(&UserInfo::new("ann", &[]), "/api/v1/pods"), "catch-all");
    assert_eq!(named(&UserInfo::new("root", &[api::user::MASTERS]), "/version"), "exempt");
    assert_eq!(named(&UserInfo::default(), "/api/v1/pods"), "catch-all");
}

#[tokio::test(start_paused = true)]
async fn a_level_without_queues_turns_away_what_it_has_no_seats_for() {
    let flow = flow(2, None);
    let first = running(ask(&flow, "ann", 1));
    let second = running(ask(&flow, "ann", 1));
    assert_eq!(refused(ask(&flow, "bob", 1)), Refusal::NoSeats);
    drop(first);
    drop(second);
    // Wider than the level: alone it may run.
    let wide = running(ask(&flow, "ann", 9));
    assert_eq!(refused(ask(&flow, "bob", 1)), Refusal::NoSeats);
    drop(wide);
    running(ask(&flow, "bob", 1));
}

#[tokio::test(start_paused = true)]
async fn queued_requests_run_as_seats_come_free() {
    let flow = flow(1, Some((8, 2, 2)));
    let first = running(ask(&flow, "ann", 1));
    let (second, mut go) = waiting(ask(&flow, "ann", 1));
    assert!(go.try_recv().is_err());
    drop(first);
    go.await.unwrap();
    drop(second);
    running(ask(&flow, "ann", 1));
}

#[tokio::test(start_paused = true)]
async fn full_queues_turn_away_and_those_who_leave_make_room() {
    let flow = flow(1, Some((1, 1, 2)));
    let _first = running(ask(&flow, "ann", 1));
    let (second, _) = waiting(ask(&flow, "ann", 1));
    let _third = waiting(ask(&flow, "ann", 1));
    assert_eq!(refused(ask(&flow, "ann", 1)), Refusal::QueueFull);
    second.time_out();
    waiting(ask(&flow, "ann", 1));
    let totals = flow.config.load().levels["low"].level.snapshot().totals;
    assert_eq!((totals.timed_out, totals.dispatched), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_flow_does_not_wait_behind_a_loud_one() {
    let flow = flow(1, Some((64, 1, 50)));
    let first = running(ask(&flow, "loud", 1));
    let mut loud: Vec<_> = (0..20).map(|_| waiting(ask(&flow, "loud", 1))).collect();
    tokio::time::advance(Duration::from_millis(10)).await;
    let (quiet, mut go) = waiting(ask(&flow, "quiet", 1));
    drop(first);
    // One of the loud flow's requests may come before it, and no more.
    if go.try_recv().is_err() {
        tokio::time::advance(Duration::from_millis(10)).await;
        drop(loud.remove(0));
        go.await.unwrap();
    }
    drop(quiet);
}

#[tokio::test(start_paused = true)]
async fn seats_stay_taken_for_the_work_after_the_answer() {
    let flow = flow(3, None);
    let schema = flow.classify(&info(), &UserInfo::new("ann", &[])).unwrap();
    let work = Work { initial: 1, last: 3, additional: Duration::from_millis(5) };
    let about = Running {
        queue: None,
        work,
        schema: Arc::clone(&schema.name),
        flow: "".into(),
        user: "".into(),
        info: info(),
        arrived: jiff::Timestamp::UNIX_EPOCH,
        started: None,
    };
    drop(running(Level::ask(&schema, about, 0, false)));
    assert_eq!(refused(ask(&flow, "ann", 1)), Refusal::NoSeats);
    tokio::time::sleep(Duration::from_millis(6)).await;
    running(ask(&flow, "ann", 1));
}

#[tokio::test(start_paused = true)]
async fn limits_follow_shares_and_idle_seats_are_lent() {
    let flow = Flow::new(&crate::Limits::default());
    let level = |name: &str, shares: i64, lendable: i64| {
        object(json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": {"type": "Reject"},
        }}}))
    };
    flow.digest(&[level("a", 45, 50), level("b", 50, 0)], &[]);
    let limits = |name: &str| flow.config.load().levels[name].level.limits();
    let (a, b) = (limits("a"), limits("b"));
    assert_eq!((a.nominal, a.lower, a.upper), (270, 135, 870));
    assert_eq!((b.nominal, b.lower), (300, 300));
    tokio::time::advance(Duration::from_secs(10)).await;
    flow.adjust();
    // Nobody wants anything: what may be lent goes to those whose share is smallest against their bounds.
    let sum: usize = ["a", "b", "catch-all"].iter().map(|name| limits(name).current).sum();
    assert!((599..=602).contains(&sum), "{sum}");
    assert!(limits("a").current >= 135);
}

#[tokio::test(start_paused = true)]
async fn a_level_that_is_deleted_serves_its_requests_to_the_end() {
    let flow = flow(1, Some((1, 1, 2)));
    let first = running(ask(&flow, "ann", 1));
    flow.digest(&[], &[]);
    assert!(flow.config.load().levels.contains_key("low"));
    assert_eq!(&*flow.classify(&info(), &UserInfo::new("ann", &[])).unwrap().name, "catch-all");
    drop(first);
    assert!(flow.has_left());
    flow.digest(&[], &[]);
    assert!(!flow.config.load().levels.contains_key("low"));
}
