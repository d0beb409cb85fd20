//! How wide the terminal is.

/// Columns without a terminal, and where it does not say.
const WIDTH_DEFAULT: usize = 80;

/// Columns of the terminal on stdout; `COLUMNS` goes before, 80 without either.
pub fn width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    said.or_else(ask).unwrap_or(WIDTH_DEFAULT)
}

fn ask() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
