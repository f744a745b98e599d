//! The results of the measurement, as CSV and Markdown.

use std::{fmt::Write, time::Duration};

use crate::{bench::Contender, store::Traffic};

/// What one store needed for one table or query.
pub(crate) struct Row {
    place: &'static str,
    frame_len: Option<u32>,
    item: String,
    time: Duration,
    traffic: Traffic,
}

impl Row {
    pub(crate) fn new(contender: &Contender, item: String, time: Duration, traffic: Traffic) -> Self {
        Self { place: contender.place, frame_len: contender.frame_len, item, time, traffic }
    }

    fn format(&self) -> String {
        self.frame_len.map_or("plain".into(), |len| format!("{} KiB", len / 1024))
    }
}

pub(crate) fn csv(rows: &[Row]) -> String {
    let mut out = String::from("place,format,item,milliseconds,requests,bytes\n");
    for row in rows {
        let Traffic { requests, bytes } = row.traffic;
        let milliseconds = row.time.as_secs_f64() * 1e3;
        writeln!(out, "{},{},{},{milliseconds:.3},{requests},{bytes}", row.place, row.format(), row.item)
            .expect("text");
    }
    out
}

/// Returns a table of times for each place, and one of requests and bytes, which do not depend on the place.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut out = String::new();
    for place in ["memory", "folder"] {
        let rows: Vec<_> = rows.iter().filter(|row| row.place == place && row.item != "open tables").collect();
        writeln!(out, "| {place}: time in ms | plain | 64 KiB | ratio | 16 KiB | ratio |\n|---|---|---|---|---|---|")
            .expect("text");
        let milliseconds = |row: &Row| row.time.as_secs_f64() * 1e3;
        lines(&mut out, &rows, milliseconds);
        out.push('\n');
    }
    let rows: Vec<_> = rows.iter().filter(|row| row.place == "memory").collect();
    for (what, measure) in [
        ("requests", (|row| row.traffic.requests as f64) as fn(&Row) -> f64),
        ("MB", |row| row.traffic.bytes as f64 / 1e6),
    ] {
        writeln!(out, "| {what} | plain | 64 KiB | ratio | 16 KiB | ratio |\n|---|---|---|---|---|---|").expect("text");
        lines(&mut out, &rows, measure);
        out.push('\n');
    }
    out
}

/// Writes a line for each item, and the sums of all tables and all queries.
fn lines(out: &mut String, rows: &[&Row], measure: fn(&Row) -> f64) {
    let mut sums: [(&str, [f64; 3]); 2] = [("**all tables written**", [0.0; 3]), ("**all queries**", [0.0; 3])];
    let mut line = |item: &str, [plain, long, short]: [f64; 3]| {
        let ratios = (long / plain, short / plain);
        writeln!(out, "| {item} | {plain:.1} | {long:.1} | {:.2} | {short:.1} | {:.2} |", ratios.0, ratios.1)
            .expect("text");
    };
    let items = rows.iter().filter(|row| row.frame_len.is_none()).map(|row| &row.item);
    for item in items {
        let mut values = rows.iter().filter(|row| row.item == *item).map(|row| measure(row));
        let values: [f64; 3] = std::array::from_fn(|_| values.next().unwrap_or_default());
        let sum = &mut sums[usize::from(!item.starts_with("write "))].1;
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        line(item, values);
    }
    sums.iter().for_each(|(item, values)| line(item, *values));
}
