//! The runner against a fake sidecar on loopback, with real children of /bin/sh.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use agentbus_proto::event::v1::Event;
use agentbus_proto::sidecar::v1::sidecar_server::{Sidecar, SidecarServer};
use agentbus_proto::sidecar::v1::{self as pb, settle_request::How, subscribe_request, subscribe_response};
use agentbus_proto::{Address, Code, Fault, timestamp};
use agentbus_runtime::serve::{Limits, Socket, serve};
use futures_util::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::exec::{self, Argv, Options, Output};

const PATIENCE: Duration = Duration::from_secs(20);
const TOKEN: &str = "secret";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a fake sidecar saw, and what it is to do. Outlives the server, as the real one's state lives in the broker.
#[derive(Default)]
struct Seen {
    /// Credits told, those of `open` included.
    credits: Vec<u32>,
    /// Verdicts by delivery id, with how many events were published before.
    settled: Vec<(String, How, usize)>,
    extended: Vec<String>,
    published: Vec<Event>,
    /// Answers to the next publishes, instead of success.
    failures: VecDeque<Fault>,
    /// The same for settles.
    unsettled: VecDeque<Fault>,
    /// More time is not given for this one.
    lost: Option<String>,
    outbound: Option<mpsc::UnboundedSender<Result<pb::SubscribeResponse, Status>>>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Seen>>);

impl Fake {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(&self.seen()) {
                return found;
            }
            let seen = self.seen().settled.clone();
            assert!(tokio::time::Instant::now() < deadline, "no {what} in time; settled: {seen:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn verdict(&self, id: &str) -> How {
        let found = |seen: &Seen| seen.settled.iter().find(|settled| settled.0 == id).map(|settled| settled.1.clone());
        self.wait(&format!("verdict on {id}"), found).await
    }

    async fn deliver(&self, id: &str, seq: u64, data: &str) {
        let to = Some(Address::Topic("notes.created".into()).into());
        let event = Event { id: format!("e-{seq}"), to, data: data.to_owned().into(), ..Event::default() };
        let deadline = Some(timestamp::from_system(SystemTime::now() + Duration::from_secs(1)));
        let (stream, group) = ("AB_default_EVENTS".to_owned(), "check".to_owned());
        let (delivery_id, event) = (id.to_owned(), Some(event));
        let delivery =
            pb::Delivery { delivery_id, event, attempt: 1, seq, stream, group, deadline, ..Default::default() };
        self.send(subscribe_response::Frame::Delivery(delivery)).await;
    }

    async fn send(&self, frame: subscribe_response::Frame) {
        let outbound = self.wait("stream", |seen| seen.outbound.clone().filter(|outbound| !outbound.is_closed())).await;
        outbound.send(Ok(pb::SubscribeResponse { frame: Some(frame) })).unwrap();
    }

    fn answer(&self, request: pb::SettleRequest) -> pb::SettleResponse {
        let mut seen = self.seen();
        let mut answer = pb::SettleResponse { delivery_id: request.delivery_id.clone(), ..Default::default() };
        match request.how.unwrap() {
            How::Extend(extend) => {
                assert!(extend.by.is_some_and(|by| by.seconds >= 1));
                if seen.lost.as_ref() == Some(&request.delivery_id) {
                    answer.failure = Some((&Fault::new(Code::LeaseLost, "it comes again")).into());
                    return answer;
                }
                seen.extended.push(request.delivery_id);
                answer.deadline = Some(timestamp::from_system(SystemTime::now() + Duration::from_secs(1)));
            }
            how => {
                let published = seen.published.len();
                seen.settled.push((request.delivery_id, how, published));
            }
        }
        answer
    }
}

fn unserved<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not served by the fake"))
}

fn admit<T>(request: &Request<T>) -> Result<(), Status> {
    let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    if shown == Some(&format!("Bearer {TOKEN}")) {
        Ok(())
    } else {
        Err(Fault::new(Code::Unauthenticated, "wrong token").into())
    }
}

#[tonic::async_trait]
impl Sidecar for Fake {
    type PublishStreamStream = Answers<pb::PublishResponse>;
    type SubscribeStream = Answers<pb::SubscribeResponse>;
    type AskStream = Answers<pb::AskResponse>;
    type ReplayStream = Answers<pb::ReplayResponse>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<pb::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        admit(&request)?;
        let fake = self.clone();
        let answers = request.into_inner().map(move |request| {
            let event = request?.event.unwrap();
            let mut seen = fake.seen();
            if let Some(fault) = seen.failures.pop_front() {
                return Ok(pb::PublishResponse { failure: Some(fault.into()), ..Default::default() });
            }
            let answer =
                pb::PublishResponse { id: event.id.clone(), stored: pb::Stored::Broker.into(), ..Default::default() };
            seen.published.push(event);
            Ok(answer)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        admit(&request)?;
        let mut frames = request.into_inner();
        let Some(subscribe_request::Frame::Open(open)) = frames.message().await?.and_then(|first| first.frame) else {
            return Err(Status::invalid_argument("open first"));
        };
        assert!(open.subscriptions.is_empty(), "the declared ones");
        let (outbound, out) = mpsc::unbounded_channel();
        self.seen().credits.push(open.credit);
        self.seen().outbound = Some(outbound.clone());
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(request)) = frames.message().await {
                match request.frame.unwrap() {
                    subscribe_request::Frame::Settle(settle) => {
                        let frame = Some(subscribe_response::Frame::Settled(fake.answer(settle)));
                        let _ = outbound.send(Ok(pb::SubscribeResponse { frame }));
                    }
                    subscribe_request::Frame::Credit(credit) => fake.seen().credits.push(credit),
                    subscribe_request::Frame::Open(_) => panic!("opened twice"),
                }
            }
        });
        let out = futures_util::stream::unfold(out, |mut out| async { out.recv().await.map(|frame| (frame, out)) });
        Ok(Response::new(Box::pin(out)))
    }

    async fn publish(&self, _: Request<pb::PublishRequest>) -> Result<Response<pb::PublishResponse>, Status> {
        unserved()
    }
    async fn receive(&self, _: Request<pb::ReceiveRequest>) -> Result<Response<pb::ReceiveResponse>, Status> {
        unserved()
    }
    async fn settle(&self, request: Request<pb::SettleRequest>) -> Result<Response<pb::SettleResponse>, Status> {
        admit(&request)?;
        if let Some(fault) = self.seen().unsettled.pop_front() {
            return Err(fault.into());
        }
        Ok(Response::new(self.answer(request.into_inner())))
    }
    async fn ask(&self, _: Request<pb::AskRequest>) -> Result<Response<Self::AskStream>, Status> {
        unserved()
    }
    async fn schedule(&self, _: Request<pb::ScheduleRequest>) -> Result<Response<pb::ScheduleResponse>, Status> {
        unserved()
    }
    async fn list_schedules(
        &self,
        _: Request<pb::ListSchedulesRequest>,
    ) -> Result<Response<pb::ListSchedulesResponse>, Status> {
        unserved()
    }
    async fn cancel_schedule(
        &self,
        _: Request<pb::CancelScheduleRequest>,
    ) -> Result<Response<pb::CancelScheduleResponse>, Status> {
        unserved()
    }
    async fn replay(&self, _: Request<pb::ReplayRequest>) -> Result<Response<Self::ReplayStream>, Status> {
        unserved()
    }
    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusResponse>, Status> {
        unserved()
    }
    async fn report(&self, _: Request<pb::ReportRequest>) -> Result<Response<pb::ReportResponse>, Status> {
        unserved()
    }
}

/// A fake sidecar that serves, and a runner of a shell script beside it.
struct Bench {
    fake: Fake,
    address: SocketAddr,
    server: (CancellationToken, JoinHandle<()>),
    stop: CancellationToken,
    runner: JoinHandle<anyhow::Result<()>>,
    folder: tempfile::TempDir,
}

async fn listen(fake: &Fake, address: SocketAddr) -> (SocketAddr, (CancellationToken, JoinHandle<()>)) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Routes::new(SidecarServer::new(fake.clone())).into_axum_router();
    let stop = CancellationToken::new();
    // Nobody shows a token here.
    let limits = Limits { grace: Duration::ZERO, guest_wait: Duration::from_secs(3600), ..Limits::default() };
    let server = tokio::spawn(serve(Socket::Tcp(listener), router, stop.clone(), limits));
    (address, (stop, server))
}

impl Bench {
    /// `{dir}` in the script is a folder of its own.
    async fn start(script: &str, change: impl FnOnce(&mut Options)) -> Self {
        let fake = Fake::default();
        let folder = tempfile::tempdir().unwrap();
        let (address, server) = listen(&fake, "127.0.0.1:0".parse().unwrap()).await;
        let script = script.replace("{dir}", folder.path().to_str().unwrap());
        let mut options = Options {
            command_json: Argv(vec!["/bin/sh".into(), "-c".into(), script]),
            output: Output::None,
            timeout_ms: 20_000,
            concurrency: 1,
            grace_ms: 10_000,
            url: format!("http://{address}"),
            token: TOKEN.into(),
            launcher: Vec::new(),
        };
        change(&mut options);
        let stop = CancellationToken::new();
        let runner = tokio::spawn(exec::run(options, stop.clone()));
        Self { fake, address, server, stop, runner, folder }
    }

    async fn with_output(script: &str) -> Self {
        Self::start(script, |options| options.output = Output::Events).await
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.runner).await.unwrap().unwrap()
    }
}

async fn exists(path: &Path) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(tokio::time::Instant::now() < deadline, "no {}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The process whose id is in this file.
async fn ended(pid: &Path) {
    let pid = std::fs::read_to_string(pid).unwrap();
    let proc = PathBuf::from(format!("/proc/{}", pid.trim()));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while proc.exists() {
        assert!(tokio::time::Instant::now() < deadline, "{} is alive", proc.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn nack(reason: &str) -> How {
    How::Nack(pb::Nack { retry_after: None, reason: reason.into() })
}

fn reject(reason: &str) -> How {
    How::Reject(pb::Reject { reason: reason.into() })
}

#[tokio::test]
async fn exit_codes_settle_the_delivery() {
    let bench = Bench::start("code=$(cat); echo said $code >&2; exit $code", |_| {}).await;
    for (seq, (data, wanted)) in [
        ("0", How::Ack(pb::Ack {})),
        ("75", nack("exit 75: said 75")),
        ("65", reject("exit 65: said 65")),
        ("3", nack("exit 3: said 3")),
    ]
    .into_iter()
    .enumerate()
    {
        bench.fake.deliver(data, seq as u64, data).await;
        assert_eq!(bench.fake.verdict(data).await, wanted);
    }
    assert_eq!(bench.fake.seen().credits, [1]);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_slow_command_is_killed_and_nacked() {
    let bench = Bench::start("sleep 60 & wait", |options| options.timeout_ms = 300).await;
    bench.fake.deliver("slow", 1, "").await;
    assert_eq!(bench.fake.verdict("slow").await, nack("timed out after 300ms"));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn more_time_is_asked_for_while_a_command_runs() {
    let bench = Bench::start("until [ -e {dir}/go ]; do sleep 0.02; done", |_| {}).await;
    bench.fake.deliver("long", 1, "").await;
    bench.fake.wait("second extension", |seen| (seen.extended.len() >= 2).then_some(())).await;
    std::fs::write(bench.file("go"), "").unwrap();
    assert_eq!(bench.fake.verdict("long").await, How::Ack(pb::Ack {}));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn outputs_are_stored_before_the_ack() {
    let script = r#"printf '{"to":"a.b","data":%s}\n{"to":"a.c"}\n' "$(cat)""#;
    let bench = Bench::with_output(script).await;
    bench.fake.deliver("one", 17, "5").await;
    assert_eq!(bench.fake.verdict("one").await, How::Ack(pb::Ack {}));
    assert_eq!(bench.fake.seen().settled[0].2, 2, "acked too early");
    let published = bench.fake.seen().published.clone();
    let ids: Vec<&str> = published.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["AB_default_EVENTS/17/check/0", "AB_default_EVENTS/17/check/1"]);
    assert_eq!((published[0].causation_id.as_str(), published[0].data.as_ref()), ("e-17", &b"5"[..]));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_bad_line_rejects_and_publishes_nothing() {
    let bench = Bench::with_output(r#"echo '{"to":"a.b"}'; echo oops"#).await;
    bench.fake.deliver("one", 1, "").await;
    let How::Reject(pb::Reject { reason }) = bench.fake.verdict("one").await else { panic!() };
    assert!(reason.contains("stdout line 2"), "{reason}");
    assert_eq!(bench.fake.seen().published, []);
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_passing_failure_is_sat_out_and_a_refusal_is_not() {
    let bench = Bench::with_output(r#"echo '{"to":"a.b"}'"#).await;
    let soon = Fault::new(Code::BrokerDown, "away").with_retry_after(Duration::from_millis(10));
    bench.fake.seen().failures = [soon.clone(), soon].into();
    bench.fake.deliver("one", 1, "").await;
    assert_eq!(bench.fake.verdict("one").await, How::Ack(pb::Ack {}));
    bench.fake.seen().failures = [Fault::new(Code::ScopeDenied, "not yours")].into();
    bench.fake.deliver("two", 2, "").await;
    assert_eq!(bench.fake.verdict("two").await, reject("output 1: SCOPE_DENIED: not yours"));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_command_outlives_its_sidecar_and_is_not_started_twice() {
    let script = "echo run >> {dir}/runs; until [ -e {dir}/go ]; do sleep 0.02; done";
    let mut bench = Bench::start(script, |_| {}).await;
    bench.fake.deliver("first", 1, "").await;
    exists(&bench.file("runs")).await;
    bench.server.0.cancel();
    (&mut bench.server.1).await.unwrap();
    bench.fake.seen().outbound = None;
    bench.server = listen(&bench.fake, bench.address).await.1;
    bench.fake.deliver("again", 1, "").await;
    bench
        .fake
        .wait("extension of both", |seen| {
            ["first", "again"].iter().all(|id| seen.extended.iter().any(|extended| extended == id)).then_some(())
        })
        .await;
    std::fs::write(bench.file("go"), "").unwrap();
    assert_eq!(bench.fake.verdict("first").await, How::Ack(pb::Ack {}));
    assert_eq!(bench.fake.verdict("again").await, How::Ack(pb::Ack {}));
    assert_eq!(std::fs::read_to_string(bench.file("runs")).unwrap(), "run\n");
    // The new stream had no room while the command ran, then one place again.
    assert_eq!(bench.fake.seen().credits[..2], [1, 0]);
    assert_eq!(bench.fake.seen().credits.last(), Some(&1));
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_command_ends_when_the_new_sidecar_says_that_its_event_is_lost() {
    let script = "echo $$ > {dir}/new; mv {dir}/new {dir}/pid; exec sleep 60";
    let mut bench = Bench::start(script, |_| {}).await;
    bench.fake.deliver("first", 1, "").await;
    exists(&bench.file("pid")).await;
    bench.server.0.cancel();
    (&mut bench.server.1).await.unwrap();
    bench.fake.seen().lost = Some("first".into());
    bench.fake.seen().outbound = None;
    bench.server = listen(&bench.fake, bench.address).await.1;
    ended(&bench.file("pid")).await;
    assert!(bench.fake.seen().settled.is_empty(), "nothing is said about what is not ours");
    bench.end().await.unwrap();
}

#[tokio::test]
async fn a_verdict_is_told_until_it_is_taken_or_of_no_use() {
    let bench = Bench::start("true", |_| {}).await;
    bench.fake.seen().unsettled = [Fault::new(Code::BrokerDown, "away"), Fault::new(Code::OutcomeUnknown, "?")].into();
    bench.fake.deliver("one", 1, "").await;
    assert_eq!(bench.fake.verdict("one").await, How::Ack(pb::Ack {}));
    bench.fake.seen().unsettled = [Fault::new(Code::LeaseLost, "gone")].into();
    bench.fake.deliver("two", 2, "").await;
    bench.fake.wait("refusal", |seen| seen.unsettled.is_empty().then_some(())).await;
    bench.fake.deliver("three", 3, "").await;
    assert_eq!(bench.fake.verdict("three").await, How::Ack(pb::Ack {}));
    let fake = bench.fake.clone();
    bench.end().await.unwrap();
    assert!(!fake.seen().settled.iter().any(|settled| settled.0 == "two"));
}

#[tokio::test]
async fn a_lost_delivery_stops_its_command() {
    let bench = Bench::start("echo $$ > {dir}/new; mv {dir}/new {dir}/pid; exec sleep 60", |_| {}).await;
    bench.fake.deliver("one", 1, "").await;
    exists(&bench.file("pid")).await;
    let lost = pb::Lost { delivery_id: "one".into(), why: None };
    bench.fake.send(subscribe_response::Frame::Lost(lost)).await;
    ended(&bench.file("pid")).await;
    assert!(bench.fake.seen().settled.is_empty());
    bench.end().await.unwrap();
}

#[tokio::test]
async fn stopping_lets_commands_finish() {
    let bench = Bench::start("touch {dir}/on; until [ -e {dir}/go ]; do sleep 0.02; done", |_| {}).await;
    bench.fake.deliver("one", 1, "").await;
    exists(&bench.file("on")).await;
    bench.stop.cancel();
    bench.fake.wait("credit 0", |seen| (seen.credits.last() == Some(&0)).then_some(())).await;
    std::fs::write(bench.file("go"), "").unwrap();
    let fake = bench.fake.clone();
    bench.end().await.unwrap();
    assert_eq!(fake.verdict("one").await, How::Ack(pb::Ack {}));
}

#[tokio::test]
async fn after_the_grace_commands_are_killed_and_nacked() {
    let bench = Bench::start("touch {dir}/on; sleep 60", |options| options.grace_ms = 100).await;
    bench.fake.deliver("one", 1, "").await;
    exists(&bench.file("on")).await;
    let fake = bench.fake.clone();
    bench.end().await.unwrap();
    assert_eq!(fake.verdict("one").await, nack("the runner was stopped before the command had finished"));
}

#[tokio::test]
async fn a_wrong_token_ends_the_runner() {
    let bench = Bench::start("true", |options| options.token = "wrong".into()).await;
    let ended = tokio::time::timeout(PATIENCE, bench.runner).await.unwrap().unwrap();
    assert!(ended.unwrap_err().to_string().contains("UNAUTHENTICATED"));
}
