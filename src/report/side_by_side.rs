//! Tables with columns for each arm: as many arms beside each other as a terminal has room for, and
//! the others in further tables below.

use comfy_table::{CellAlignment, Table, presets};

use super::terminal::COLUMNS;

/// A figure of every arm. Each arm has as many cells as the heading gives it.
pub(super) struct Line {
    pub(super) name: String,
    /// Those of each arm.
    pub(super) cells: Vec<Vec<String>>,
}

/// Tables of `lines`, each with the names at its left and some arms, none wider than a terminal; an
/// arm that is too wide by itself stands alone. `says` tells whether a cell has something to say:
/// lines of which no cell does are left out of that table.
pub(super) fn tables(heading: &Line, lines: &[Line], says: impl Fn(&str) -> bool) -> String {
    let arms = heading.cells.len();
    let of = |from: usize, to: usize| table(heading, lines, from..to, &says);
    let mut tables = Vec::new();
    let mut from = 0;
    while from < arms {
        let fits = |to: &usize| width(&of(from, *to)) <= COLUMNS;
        let to = (from + 1..=arms).take_while(fits).last();
        let to = to.unwrap_or(from + 1);
        tables.push(of(from, to));
        from = to;
    }
    tables.join("\n\n")
}

fn width(table: &str) -> usize {
    let lines = table.lines().map(|line| line.chars().count());
    lines.max().unwrap_or(0)
}

fn table(
    heading: &Line,
    lines: &[Line],
    arms: std::ops::Range<usize>,
    says: &impl Fn(&str) -> bool,
) -> String {
    let cells = |line: &Line| -> Vec<String> {
        let of_arms = line.cells[arms.clone()].iter().flatten().cloned();
        std::iter::once(line.name.clone()).chain(of_arms).collect()
    };
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    shown.set_header(cells(heading));
    for line in lines.iter().map(cells) {
        if line[1..].iter().any(|cell| says(cell)) {
            shown.add_row(line);
        }
    }
    for (nth, column) in shown.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if nth > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The last column's padding is no text.
    let text = shown.to_string();
    let trimmed: Vec<_> = text.lines().map(str::trim_end).collect();
    trimmed.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, arms: usize, cell: &str) -> Line {
        Line {
            name: name.to_string(),
            cells: vec![vec![cell.to_string()]; arms],
        }
    }

    /// How many arms stand in each table, if each is `cell` wide.
    fn check(arms: usize, cell: &str, expected: &[usize]) {
        let heading = line("ns of server CPU per request", arms, cell);
        let lines = [line("guest", arms, "1"), line("silent", arms, "–")];
        let text = tables(&heading, &lines, |cell| cell != "–");
        let beside: Vec<_> = text
            .lines()
            .map(|line| line.matches(cell).count())
            .collect();
        let beside: Vec<_> = beside.into_iter().filter(|count| *count > 0).collect();
        assert_eq!(beside, expected, "{text}");
        assert_eq!(text.matches("guest").count(), expected.len(), "{text}");
        assert!(!text.contains("silent"), "{text}");
        assert!(
            cell.len() > COLUMNS / 2 || width(&text) <= COLUMNS,
            "{text}"
        );
    }

    #[test]
    fn what_has_no_room_stands_below() {
        check(1, "epoll", &[1]);
        check(3, "io_uring", &[3]);
        check(6, "io_uring", &[5, 1]);
        check(4, "io_uring on-demand", &[2, 2]);
        check(2, &"wide".repeat(20), &[1, 1]);
    }
}
