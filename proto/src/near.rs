//! Which known word was probably meant by an unknown one: for messages that help with typing mistakes.

/// The candidate that was probably meant: within two typing mistakes, or one in a short word.
pub fn did_you_mean<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let allowed = if text.chars().count() <= 4 { 1 } else { 2 };
    let near = candidates.iter().map(|candidate| (distance(text, candidate), *candidate));
    near.filter(|(distance, _)| *distance <= allowed).min().map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().collect());
    let mut rows = vec![vec![0; other.len() + 1]; one.len() + 1];
    for i in 0..=one.len() {
        for j in 0..=other.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let same = usize::from(one[i - 1] != other[j - 1]);
                let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + same);
                if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_guessed_and_strangers_are_not() {
        let keys = ["command", "subscribe", "publish", "env"];
        let cases = [
            ("comand", Some("command")),
            ("commadn", Some("command")),
            ("subscribes", Some("subscribe")),
            ("evn", Some("env")),
            ("prompt", None),
            ("x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(did_you_mean(text, &keys), expected, "{text}");
        }
    }
}
