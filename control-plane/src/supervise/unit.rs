//! What happens to one instance, decided: events in, commands out. Pure: time and randomness come in as arguments.
//!
//! An instance is a sidecar and, beside it, its agent's process. The sidecar is there first and leaves last. A dead
//! sidecar is started again at once, then with back-off, for ever, while its agent keeps running; a dead agent is started
//! again as its restart policy says, and its sidecar is told of both. Stopping: the agent first, then the sidecar drains.
//! The sidecar is told before the agent is asked to end, so that a connection that breaks on the way is no crash.

use std::time::{Duration, Instant};

use agentbus_nats::grant::AgentLife;
use agentbus_runtime::backoff::Backoff;
use agentbus_runtime::restart::{Budget, Decision, Policy, Restarts};

use crate::spec;
use crate::status::InstanceState;

/// First at once for a person's eyes; at most 5 s because a missing sidecar holds up its agent.
const SIDECAR_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), max: Duration::from_secs(5), factor: 2.0, jitter: 0.2 };
/// A process that ran this long was started well: its back-off and budget begin afresh.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The sidecar listens and has reached the broker.
    SidecarReady,
    /// The sidecar's process ended, or could not be started.
    SidecarExited,
    /// The agent's process runs.
    AgentStarted,
    /// The agent's process ended, or could not be started.
    AgentExited {
        /// Exit code 0.
        success: bool,
        /// By SIGKILL.
        killed: bool,
    },
    /// Time has passed.
    Tick,
    /// Everything shall end.
    Stop,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Start the sidecar's process and lead it through its bootstrap.
    StartSidecar,
    /// Start the agent's process.
    StartAgent,
    /// Tell the sidecar what became of its agent.
    TellSidecar(AgentLife),
    /// End the agent's process: asked first, killed after a while.
    StopAgent,
    /// Let the sidecar finish and leave; killed after a while.
    DrainSidecar,
    /// Nothing is left to do.
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sidecar {
    Waiting(Instant),
    Starting,
    Ready,
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    /// There is none: the instance is a sidecar only.
    None,
    /// Ready to start as soon as the sidecar is.
    Held,
    Waiting(Instant),
    Starting,
    Running,
    CrashLooping,
    Exited,
    Stopped,
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Unit {
    sidecar: Sidecar,
    agent: Agent,
    sidecar_restarts: Restarts,
    agent_restarts: Restarts,
    stopping: bool,
}

impl Unit {
    /// An instance that has not been started. `restart` is the agent's policy; `None` for a sidecar without agent.
    /// Its first command comes with the first [`Event::Tick`].
    pub fn new(restart: Option<spec::Restart>, now: Instant) -> Self {
        // A second is enough of a window: this budget is never to be spent.
        let endless = Budget { max: u32::MAX, per: Duration::from_secs(1) };
        let agent = if restart.is_some() { Agent::Held } else { Agent::None };
        let restart = restart.unwrap_or_default();
        Self {
            sidecar: Sidecar::Waiting(now),
            agent,
            sidecar_restarts: Restarts::new(Policy::Always, endless, SIDECAR_BACKOFF, HEALTHY_AFTER),
            agent_restarts: Restarts::new(restart.policy, restart.budget, Backoff::default(), HEALTHY_AFTER),
            stopping: false,
        }
    }

    /// Takes an event in. `random01` is uniform in 0–1.
    pub fn on(&mut self, event: Event, now: Instant, random01: f64) -> Vec<Command> {
        match event {
            Event::SidecarReady => self.sidecar_ready(now),
            Event::SidecarExited => self.sidecar_exited(now, random01),
            Event::AgentStarted => self.agent_started(now),
            Event::AgentExited { success, killed } => self.agent_exited(success, killed, now, random01),
            Event::Tick => self.tick(now),
            Event::Stop => self.stop(),
        }
    }

    /// When the next [`Event::Tick`] is due.
    pub fn next_tick(&self) -> Option<Instant> {
        let sidecar = if let Sidecar::Waiting(at) = self.sidecar { Some(at) } else { None };
        let agent = if let Agent::Waiting(at) = self.agent { Some(at) } else { None };
        sidecar.into_iter().chain(agent).min()
    }

    /// Whether it is being stopped.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the sidecar serves, and the agent runs or has done all it was meant to.
    pub fn is_ready(&self) -> bool {
        self.sidecar == Sidecar::Ready && matches!(self.agent, Agent::None | Agent::Running | Agent::Exited)
    }

    /// What the instance is doing, for people.
    pub fn state(&self) -> InstanceState {
        match (self.agent, self.sidecar) {
            (Agent::None, Sidecar::Ready) | (Agent::Running, _) => InstanceState::Running,
            (Agent::None, Sidecar::Starting) | (Agent::Held | Agent::Starting, _) => InstanceState::Spawning,
            (Agent::None, Sidecar::Waiting(_)) | (Agent::Waiting(_), _) => InstanceState::Backoff,
            (Agent::None, Sidecar::Gone) | (Agent::Stopped, _) => InstanceState::Stopped,
            (Agent::CrashLooping, _) => InstanceState::Crashlooping,
            (Agent::Exited, _) => InstanceState::Exited,
        }
    }

    fn sidecar_ready(&mut self, now: Instant) -> Vec<Command> {
        self.sidecar = Sidecar::Ready;
        self.sidecar_restarts.on_start(now);
        match self.agent {
            Agent::Running if self.stopping => vec![Command::TellSidecar(AgentLife::Stopping)],
            _ if self.stopping => vec![],
            Agent::Held => self.start_agent(),
            Agent::Running => vec![Command::TellSidecar(AgentLife::Started)],
            _ => vec![],
        }
    }

    fn sidecar_exited(&mut self, now: Instant, random01: f64) -> Vec<Command> {
        if self.stopping {
            self.sidecar = Sidecar::Gone;
            return if self.agent_is_gone() { vec![Command::Finish] } else { vec![] };
        }
        let wait = match self.sidecar_restarts.on_exit(now, false, random01) {
            Decision::RestartAfter(wait) => wait,
            Decision::Finished | Decision::GiveUp => SIDECAR_BACKOFF.max,
        };
        self.sidecar = Sidecar::Waiting(now + wait);
        vec![]
    }

    fn start_agent(&mut self) -> Vec<Command> {
        self.agent = Agent::Starting;
        vec![Command::StartAgent]
    }

    fn agent_started(&mut self, now: Instant) -> Vec<Command> {
        self.agent = Agent::Running;
        self.agent_restarts.on_start(now);
        match self.sidecar {
            _ if self.stopping => self.stop_agent(),
            Sidecar::Ready => vec![Command::TellSidecar(AgentLife::Started)],
            _ => vec![],
        }
    }

    fn agent_exited(&mut self, success: bool, killed: bool, now: Instant, random01: f64) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.sidecar == Sidecar::Ready {
            // What an agent held that was stopped on purpose is no crash of those events.
            let life = match killed {
                _ if self.stopping => AgentLife::Stopped,
                true => AgentLife::Killed,
                false => AgentLife::Exited,
            };
            commands.push(Command::TellSidecar(life));
        }
        if self.stopping {
            self.agent = Agent::Stopped;
            commands.push(self.end_sidecar());
            return commands;
        }
        self.agent = match self.agent_restarts.on_exit(now, success, random01) {
            Decision::RestartAfter(wait) => Agent::Waiting(now + wait),
            Decision::Finished => Agent::Exited,
            Decision::GiveUp => Agent::CrashLooping,
        };
        commands
    }

    fn tick(&mut self, now: Instant) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.stopping {
            return commands;
        }
        if matches!(self.sidecar, Sidecar::Waiting(at) if at <= now) {
            self.sidecar = Sidecar::Starting;
            commands.push(Command::StartSidecar);
        }
        if matches!(self.agent, Agent::Waiting(at) if at <= now) {
            if self.sidecar == Sidecar::Ready {
                commands.extend(self.start_agent());
            } else {
                self.agent = Agent::Held;
            }
        }
        commands
    }

    fn stop(&mut self) -> Vec<Command> {
        if std::mem::replace(&mut self.stopping, true) {
            return vec![];
        }
        match self.agent {
            Agent::Running => self.stop_agent(),
            // Its start is on the way; it is stopped then.
            Agent::Starting => vec![],
            Agent::None => vec![self.end_sidecar()],
            _ => {
                self.agent = Agent::Stopped;
                vec![self.end_sidecar()]
            }
        }
    }

    fn stop_agent(&self) -> Vec<Command> {
        let told = (self.sidecar == Sidecar::Ready).then_some(Command::TellSidecar(AgentLife::Stopping));
        told.into_iter().chain([Command::StopAgent]).collect()
    }

    fn agent_is_gone(&self) -> bool {
        !matches!(self.agent, Agent::Starting | Agent::Running)
    }

    fn end_sidecar(&mut self) -> Command {
        match self.sidecar {
            Sidecar::Starting | Sidecar::Ready => Command::DrainSidecar,
            Sidecar::Waiting(_) | Sidecar::Gone => {
                self.sidecar = Sidecar::Gone;
                Command::Finish
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STARTED: Command = Command::TellSidecar(AgentLife::Started);
    const EXITED: Command = Command::TellSidecar(AgentLife::Exited);
    const STOPPING: Command = Command::TellSidecar(AgentLife::Stopping);
    const STOPPED: Command = Command::TellSidecar(AgentLife::Stopped);

    struct Bench {
        unit: Unit,
        now: Instant,
    }

    impl Bench {
        fn new(restart: Option<spec::Restart>) -> Self {
            let now = Instant::now();
            Self { unit: Unit::new(restart, now), now }
        }

        fn with(policy: Policy, max: u32) -> Self {
            Self::new(Some(spec::Restart { policy, budget: Budget { max, per: 600 * SECOND } }))
        }

        /// An event, what must come of it, and the state afterwards.
        fn check(&mut self, event: Event, commands: &[Command], state: &str) {
            let shown = format!("{event:?}");
            assert_eq!(self.unit.on(event, self.now, 0.5), commands, "{shown}");
            assert_eq!(self.unit.state().as_str(), state, "{shown}");
        }

        fn after(&mut self, wait: Duration) {
            self.now += wait;
        }

        fn running(mut self) -> Self {
            self.check(Event::Tick, &[Command::StartSidecar], "spawning");
            self.check(Event::SidecarReady, &[Command::StartAgent], "spawning");
            self.check(Event::AgentStarted, &[STARTED], "running");
            assert!(self.unit.is_ready());
            self
        }
    }

    const FAILED: Event = Event::AgentExited { success: false, killed: false };
    const DONE: Event = Event::AgentExited { success: true, killed: false };
    const KILLED: Event = Event::AgentExited { success: false, killed: true };

    #[test]
    fn the_sidecar_comes_first_and_leaves_last() {
        let mut bench = Bench::with(Policy::Always, 3).running();
        bench.check(Event::Stop, &[STOPPING, Command::StopAgent], "running");
        bench.check(Event::Stop, &[], "running");
        bench.check(FAILED, &[STOPPED, Command::DrainSidecar], "stopped");
        bench.check(Event::SidecarExited, &[Command::Finish], "stopped");
        assert_eq!(bench.unit.next_tick(), None);
    }

    #[test]
    fn a_dead_sidecar_is_replaced_while_the_agent_runs() {
        let mut bench = Bench::with(Policy::Always, 3).running();
        bench.check(Event::SidecarExited, &[], "running");
        assert!(!bench.unit.is_ready());
        bench.check(Event::Tick, &[], "running");
        bench.now = bench.unit.next_tick().unwrap();
        bench.check(Event::Tick, &[Command::StartSidecar], "running");
        bench.check(Event::SidecarReady, &[STARTED], "running");
    }

    #[test]
    fn a_sidecar_that_never_starts_is_tried_for_ever_with_growing_pauses() {
        let mut bench = Bench::new(None);
        let mut waits = Vec::new();
        for _ in 0..30 {
            bench.check(Event::Tick, &[Command::StartSidecar], "spawning");
            bench.check(Event::SidecarExited, &[], "backoff");
            let next = bench.unit.next_tick().unwrap();
            waits.push(next - bench.now);
            bench.now = next;
        }
        assert_eq!((waits[0], waits[1], waits[29]), (SECOND / 20, SECOND / 10, 5 * SECOND));
    }

    #[test]
    fn an_agent_that_keeps_dying_is_given_up() {
        let mut bench = Bench::with(Policy::Always, 2).running();
        for _ in 0..2 {
            bench.check(FAILED, &[EXITED], "backoff");
            bench.now = bench.unit.next_tick().unwrap();
            bench.check(Event::Tick, &[Command::StartAgent], "spawning");
            bench.check(Event::AgentStarted, &[STARTED], "running");
        }
        bench.check(FAILED, &[EXITED], "crashlooping");
        assert_eq!(bench.unit.next_tick(), None);
        assert!(!bench.unit.is_ready());
        bench.check(Event::Stop, &[Command::DrainSidecar], "stopped");
    }

    #[test]
    fn a_sidecar_hears_of_a_kill_as_such_unless_it_was_asked_for() {
        let mut bench = Bench::with(Policy::Always, 3).running();
        bench.check(KILLED, &[Command::TellSidecar(AgentLife::Killed)], "backoff");
        let mut bench = Bench::with(Policy::Always, 3).running();
        bench.check(Event::Stop, &[STOPPING, Command::StopAgent], "running");
        bench.check(KILLED, &[STOPPED, Command::DrainSidecar], "stopped");
    }

    #[test]
    fn an_agent_that_cannot_be_started_uses_up_its_budget() {
        let mut bench = Bench::with(Policy::OnFailure, 1);
        bench.check(Event::Tick, &[Command::StartSidecar], "spawning");
        bench.check(Event::SidecarReady, &[Command::StartAgent], "spawning");
        bench.check(FAILED, &[EXITED], "backoff");
        bench.after(60 * SECOND);
        bench.check(Event::Tick, &[Command::StartAgent], "spawning");
        bench.check(FAILED, &[EXITED], "crashlooping");
    }

    #[test]
    fn the_policy_decides_whether_an_end_is_the_end() {
        for (policy, event, state) in [
            (Policy::Never, FAILED, "exited"),
            (Policy::OnFailure, DONE, "exited"),
            (Policy::OnFailure, FAILED, "backoff"),
            (Policy::Always, DONE, "backoff"),
        ] {
            let mut bench = Bench::with(policy, 3).running();
            bench.check(event, &[EXITED], state);
            assert_eq!(bench.unit.is_ready(), state == "exited");
        }
    }

    #[test]
    fn an_agent_waits_for_its_sidecar() {
        let mut bench = Bench::with(Policy::Always, 3).running();
        bench.check(Event::SidecarExited, &[], "running");
        bench.check(FAILED, &[], "backoff");
        bench.after(SECOND);
        bench.check(Event::Tick, &[Command::StartSidecar], "spawning");
        bench.check(Event::SidecarReady, &[Command::StartAgent], "spawning");
    }

    #[test]
    fn stopping_in_the_middle_of_a_start_ends_everything() {
        let mut bench = Bench::with(Policy::Always, 3);
        bench.check(Event::Stop, &[Command::Finish], "stopped");
        bench.check(Event::Tick, &[], "stopped");

        let mut bench = Bench::with(Policy::Always, 3);
        bench.check(Event::Tick, &[Command::StartSidecar], "spawning");
        bench.check(Event::Stop, &[Command::DrainSidecar], "stopped");
        bench.check(Event::SidecarReady, &[], "stopped");
        bench.check(Event::SidecarExited, &[Command::Finish], "stopped");

        let mut bench = Bench::with(Policy::Always, 3);
        bench.check(Event::Tick, &[Command::StartSidecar], "spawning");
        bench.check(Event::SidecarReady, &[Command::StartAgent], "spawning");
        bench.check(Event::Stop, &[], "spawning");
        bench.check(Event::AgentStarted, &[STOPPING, Command::StopAgent], "running");
        bench.check(Event::SidecarExited, &[], "running");
        bench.check(FAILED, &[Command::Finish], "stopped");
    }

    #[test]
    fn a_sidecar_that_comes_while_its_agent_ends_is_told_so() {
        let mut bench = Bench::with(Policy::Always, 3).running();
        bench.check(Event::SidecarExited, &[], "running");
        bench.after(SECOND);
        bench.check(Event::Tick, &[Command::StartSidecar], "running");
        bench.check(Event::Stop, &[Command::StopAgent], "running");
        bench.check(Event::SidecarReady, &[STOPPING], "running");
        bench.check(FAILED, &[STOPPED, Command::DrainSidecar], "stopped");
    }

    #[test]
    fn a_person_has_a_sidecar_only() {
        let mut bench = Bench::new(None);
        bench.check(Event::Tick, &[Command::StartSidecar], "spawning");
        bench.check(Event::SidecarReady, &[], "running");
        assert!(bench.unit.is_ready());
        bench.check(Event::Stop, &[Command::DrainSidecar], "running");
        bench.check(Event::SidecarExited, &[Command::Finish], "stopped");
    }
}
