//! Sizes for people: rounded to three digits, unlike `runtime::bytesize`, which is exact and reads back.

/// `0 B`, `17.2 KiB`, `1.00 GiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would be rounded to four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (17_600, "17.2 KiB"),
            (1 << 30, "1.00 GiB"),
            (1_048_000, "1.00 MiB"),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(human(bytes), wanted);
        }
    }
}
