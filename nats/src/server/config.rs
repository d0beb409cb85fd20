//! The configuration text of a managed nats-server, from plain values.
//!
//! Promises: whatever a path or a JWT contains ends up inside a quoted string and nowhere else; the same values give the same text.
//! It writes no files and checks no value: the server does, and `process` reports what it says.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::identity::{Authority, AuthorityError};

/// A user JWT with many permissions passes the server's default of 4 KiB and is then refused at connect.
const CONTROL_LINE_MAX: &str = "64KB";

/// Everything is kept in files; this bounds what a stray in-memory stream could take.
const MEMORY_STORE_BYTES_MAX: u64 = 256 << 20;

/// The log file is rotated at this size, and this many old ones are kept.
const LOG_BYTES_MAX: u64 = 16 << 20;
const LOG_FILES_MAX: u32 = 3;

/// The folder for accounts, beside the log; and how many it may hold: a namespace has one or two.
const ACCOUNTS: &str = "accounts";
const ACCOUNTS_MAX: u32 = 2000;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct ConfigOptions {
    /// Address to listen on, for clients and for HTTP.
    pub listen_host: String,
    /// Client port; `None` lets the system choose a free one.
    pub port: Option<u16>,
    /// Where JetStream keeps its files. Made if it is not there.
    pub store_dir: PathBuf,
    /// What all streams together may take on disk, in bytes.
    pub jetstream_store_bytes_max: u64,
    /// Largest message, in bytes, headers included.
    pub max_payload: usize,
    /// Sync every write to disk before it is confirmed: safe against power loss, and some thirty times slower.
    pub sync_always: bool,
    /// Authentication by JWT. `None` lets everybody in: for tests on loopback.
    pub operator: Option<OperatorMode>,
    /// Monitoring over HTTP: `None` none, `Some(0)` on a port the system chooses.
    pub http_port: Option<u16>,
}

impl Default for ConfigOptions {
    fn default() -> Self {
        ConfigOptions {
            listen_host: "127.0.0.1".to_owned(),
            port: None,
            store_dir: PathBuf::new(),
            // Enough for weeks of a busy project, and less than most disks have free.
            jetstream_store_bytes_max: 10 << 30,
            max_payload: 1 << 20,
            sync_always: false,
            operator: None,
            http_port: None,
        }
    }
}

/// The trust chain a server in operator mode is given. Public material only: no seeds.
#[derive(Clone, Debug)]
pub struct OperatorMode {
    /// The operator's JWT, signed by itself.
    pub operator_jwt: String,
    /// Public key (`A…`) of the system account; it must be among `accounts`.
    pub system_account: String,
    /// Public key and JWT of every account.
    pub accounts: Vec<(String, String)>,
}

impl ConfigOptions {
    /// The text of the configuration file. Paths that are not UTF-8 are written with replacement characters: refuse them before.
    pub fn render(&self, log_file: &Path) -> String {
        let host = quoted(&self.listen_host);
        let mut text = format!(
            "# written by agentbus at every start; changes here are lost\nhost: {host}\nport: {}\n",
            port(self.port)
        );
        if let Some(http) = self.http_port {
            let address = format!("{}:{}", self.listen_host, port(Some(http).filter(|port| *port != 0)));
            line(&mut text, "http", &quoted(&address));
        }
        line(&mut text, "max_payload", &self.max_payload.to_string());
        line(&mut text, "max_control_line", CONTROL_LINE_MAX);
        line(&mut text, "log_file", &quoted(&log_file.to_string_lossy()));
        line(&mut text, "logfile_size_limit", &LOG_BYTES_MAX.to_string());
        line(&mut text, "logfile_max_num", &LOG_FILES_MAX.to_string());
        self.jetstream(&mut text);
        if let Some(operator) = &self.operator {
            operator.render(&mut text, &log_file.with_file_name(ACCOUNTS));
        }
        text
    }

    fn jetstream(&self, text: &mut String) {
        text.push_str("jetstream {\n");
        line(text, "  store_dir", &quoted(&self.store_dir.to_string_lossy()));
        line(text, "  max_file_store", &self.jetstream_store_bytes_max.to_string());
        line(text, "  max_memory_store", &MEMORY_STORE_BYTES_MAX.to_string());
        if self.sync_always {
            line(text, "  sync_interval", "always");
        }
        text.push_str("}\n");
    }
}

impl OperatorMode {
    /// What lets the keys of an installation in. `now`: seconds since the Unix epoch.
    pub fn of(authority: &Authority, now: u64) -> Result<Self, AuthorityError> {
        let mut accounts = authority.accounts(now)?;
        accounts.push(authority.system(now)?);
        Ok(Self { operator_jwt: authority.operator_jwt(now)?, system_account: authority.system_account(), accounts })
    }

    /// `folder`: where the server keeps the accounts it is told of while it runs. Those of the configuration are always known.
    fn render(&self, text: &mut String, folder: &Path) {
        line(text, "operator", &quoted(&self.operator_jwt));
        line(text, "system_account", &quoted(&self.system_account));
        text.push_str("resolver {\n  type: full\n");
        line(text, "  dir", &quoted(&folder.to_string_lossy()));
        line(text, "  limit", &ACCOUNTS_MAX.to_string());
        text.push_str("}\nresolver_preload {\n");
        for (public_key, jwt) in &self.accounts {
            line(text, &format!("  {}", quoted(public_key)), &quoted(jwt));
        }
        text.push_str("}\n");
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key}: {value}");
}

/// The server's word for "any free port" is -1.
fn port(port: Option<u16>) -> i32 {
    port.map_or(-1, i32::from)
}

/// A double-quoted string of the server's configuration language. Its escapes are `\\ \" \n \r \t` and `\xNN`; in quotes, `$` and `#` mean nothing.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            control if control.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(control))),
            plain => text.push(plain),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_safely() {
        for (value, expected) in [
            ("/plain", r#""/plain""#),
            ("/with space", r#""/with space""#),
            ("/a\"b", r#""/a\"b""#),
            ("/a\\b", r#""/a\\b""#),
            ("/a\nport: 1", r#""/a\nport: 1""#),
            ("/$HOME # {", r#""/$HOME # {""#),
            ("/\u{1}", r#""/\x01""#),
            ("/grün", r#""/grün""#),
        ] {
            assert_eq!(quoted(value), expected);
        }
    }

    #[test]
    fn a_default_server_listens_on_any_loopback_port_without_http() {
        let text = ConfigOptions { store_dir: "/s".into(), ..Default::default() }.render(Path::new("/l"));
        for line in
            ["host: \"127.0.0.1\"", "port: -1", "max_payload: 1048576", "max_control_line: 64KB", "  store_dir: \"/s\""]
        {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
        assert!(!text.contains("http") && !text.contains("sync_interval") && !text.contains("operator"), "{text}");
    }

    #[test]
    fn every_option_is_written() {
        let operator = OperatorMode {
            operator_jwt: "o.j.w".into(),
            system_account: "ASYS".into(),
            accounts: vec![("ASYS".into(), "s.j.w".into()), ("AONE".into(), "a.j.w".into())],
        };
        let options = ConfigOptions {
            port: Some(4333),
            http_port: Some(0),
            sync_always: true,
            operator: Some(operator),
            jetstream_store_bytes_max: 1000,
            ..Default::default()
        };
        let text = options.render(Path::new("/l"));
        let expected = [
            "port: 4333",
            "http: \"127.0.0.1:-1\"",
            "  sync_interval: always",
            "  max_file_store: 1000",
            "operator: \"o.j.w\"",
        ];
        for line in
            expected.into_iter().chain(["system_account: \"ASYS\"", "  dir: \"/accounts\"", "  \"AONE\": \"a.j.w\""])
        {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }
}
