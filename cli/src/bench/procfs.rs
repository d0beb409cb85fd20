//! What processes use, as Linux tells it. `None` everywhere else.

use std::fs;

use super::measure::Cpu;

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident now, the program's own text included, which all sidecars and `up` share.
    pub resident: u64,
    /// What of it is not shared with anybody: heap and stacks.
    pub private: u64,
    /// The most it ever was.
    pub peak: u64,
}

/// CPU seconds of all threads of a process that still run. From the scheduler's own count, which is finer than clock ticks.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let nanos: Vec<u64> =
        threads.filter_map(|thread| on_cpu(&fs::read_to_string(thread.path().join("schedstat")).ok()?)).collect();
    (!nanos.is_empty()).then(|| nanos.iter().sum::<u64>() as f64 / 1e9)
}

/// Memory of a process.
pub fn memory(pid: u32) -> Option<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Memory {
        resident: bytes(&status, "VmRSS:")?,
        private: bytes(&status, "RssAnon:")?,
        peak: bytes(&status, "VmHWM:")?,
    })
}

/// Name of the processor.
pub fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn bytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Measures what a stretch of work costs the parties.
pub struct Meter {
    sidecar: Option<u32>,
    server: Option<u32>,
    before: Cpu,
}

impl Meter {
    /// Starts counting.
    pub fn start(sidecar: Option<u32>, server: Option<u32>) -> Self {
        let mut meter = Self { sidecar, server, before: Cpu::default() };
        meter.before = meter.now();
        meter
    }

    /// CPU seconds since the start.
    pub fn stop(&self) -> Cpu {
        let now = self.now();
        let since = |now: Option<f64>, before: Option<f64>| Some((now? - before?).max(0.0));
        Cpu {
            agent: since(now.agent, self.before.agent),
            sidecar: since(now.sidecar, self.before.sidecar),
            server: since(now.server, self.before.server),
        }
    }

    fn now(&self) -> Cpu {
        Cpu {
            agent: cpu_seconds(std::process::id()),
            sidecar: self.sidecar.and_then(cpu_seconds),
            server: self.server.and_then(cpu_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    5120 kB\nVmRSS:\t    4096 kB\n";
        assert_eq!((bytes(status, "VmRSS:"), bytes(status, "VmHWM:")), (Some(4096 << 10), Some(5120 << 10)));
        assert_eq!(bytes(status, "VmSwap:"), None);
    }

    #[test]
    fn time_on_the_cpu_is_the_first_number() {
        assert_eq!(on_cpu("95269 1569678 2\n"), Some(95_269));
        assert_eq!(on_cpu(""), None);
    }

    #[test]
    fn a_process_that_is_not_there_costs_nothing_known() {
        assert_eq!(cpu_seconds(u32::MAX), None);
        assert_eq!(memory(u32::MAX), None);
    }
}
