//! Plain tables for terminals: columns as wide as needed, numbers to the right, two spaces between. No borders: the output
//! stays easy to cut with awk.

/// Lines of a table; the header comes first. Rows may be shorter than the header.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let right: Vec<bool> = (0..header.len()).map(|column| is_numeric(column, rows)).collect();
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (column, cell) in cells.iter().enumerate().take(widths.len()) {
            let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
            let gap = if column == 0 { "" } else { "  " };
            text.push_str(gap);
            if right[column] { text.extend([pad.as_str(), cell]) } else { text.extend([cell, pad.as_str()]) }
        }
        text.trim_end().to_owned()
    };
    let head = line(header.to_vec());
    std::iter::once(head).chain(rows.iter().map(|row| line(row.iter().map(String::as_str).collect()))).collect()
}

fn is_numeric(column: usize, rows: &[Vec<String>]) -> bool {
    let mut cells = rows.iter().filter_map(|row| row.get(column)).peekable();
    cells.peek().is_some()
        && cells.all(|cell| cell == "-" || (!cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_go_right() {
        let rows = vec![vec!["check".into(), "12".into(), "x".into()], vec!["grün".into(), "-".into()]];
        let lines = render(&["GROUP", "LAG", "NOTE"], &rows);
        assert_eq!(lines, ["GROUP  LAG  NOTE", "check   12  x", "grün     -"]);
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(render(&["A", "B"], &[]), ["A  B"]);
    }
}
