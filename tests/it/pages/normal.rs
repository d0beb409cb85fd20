//! What differs from run to run, made equal before two outputs are compared.

use regex::Regex;

/// Makes equal what differs from run to run.
pub(super) fn normal(text: &str) -> String {
    let rules = [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
        (r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", "<trace>"),
        (r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", "<time>"),
        (r"127\.0\.0\.1:\d+", "<address>"),
        (r"\S*/(agentbus/[\w.-]+)-[0-9a-f]{8}", "<state>/$1"),
        (r"\S*/[\w-]+/agentbus.yaml", "<project>"),
        (r"AGENTBUS_TOKEN=\S+", "AGENTBUS_TOKEN=<token>"),
        (r#""delivery_id": "[^"]+""#, "\"delivery_id\": <delivery>"),
        (r"nats-server \d+\.\d+\.\d+", "nats-server <version>"),
        (r"\d+\.\d+\.\d+ from .*", "<version> from <somewhere>"),
        (r"\d+(\.\d+)? (B|KiB|MiB|GiB)\b", "<size>"),
        (r"process \d+", "process <pid>"),
        (r"\b\d+(\.\d+)? m?s\b", "<length>"),
        (r"[◆░█·▒✓✗]+", "<bar>"),
        (r"\b\d{3,}\b", "<number>"),
        (r"─+|[ \t]+", " "),
    ];
    let mut text = text.to_owned();
    for (pattern, by) in rules {
        text = Regex::new(pattern).expect("a pattern").replace_all(&text, by).into_owned();
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end().to_owned()
}
