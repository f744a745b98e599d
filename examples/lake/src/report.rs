//! The results of the measurement, as CSV and Markdown.

use std::{fmt::Write, time::Duration};

use crate::{
    bench::{Contender, Place},
    store::Traffic,
};

/// The time and traffic of one store for one table or query.
pub(crate) struct Row {
    place: Place,
    frame_len: u32,
    item: String,
    time: Duration,
    traffic: Traffic,
}

impl Row {
    pub(crate) fn new(contender: &Contender, item: String, time: Duration, traffic: Traffic) -> Self {
        Self { place: contender.place, frame_len: contender.frame_len, item, time, traffic }
    }

    fn milliseconds(&self) -> f64 {
        self.time.as_secs_f64() * 1e3
    }

    fn format(&self) -> String {
        match self.frame_len {
            0 => "plain".into(),
            len => format!("{} KiB", len / 1024),
        }
    }

    fn place(&self) -> &'static str {
        match self.place {
            Place::Memory => "memory",
            Place::Folder => "folder",
        }
    }
}

pub(crate) fn csv(rows: &[Row]) -> String {
    let mut out = String::from("place,format,item,milliseconds,requests,bytes\n");
    for row in rows {
        let (milliseconds, Traffic { requests, bytes }) = (row.milliseconds(), row.traffic);
        writeln!(out, "{},{},{},{milliseconds:.3},{requests},{bytes}", row.place(), row.format(), row.item)
            .expect("text");
    }
    out
}

/// Returns a table of times for each place, and tables of requests and bytes, which do not depend on the place.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut tables = Vec::new();
    for place in ["memory", "folder"] {
        let timed = |row: &&Row| row.place() == place && row.item != "open tables";
        let timed: Vec<_> = rows.iter().filter(timed).collect();
        if !timed.is_empty() {
            tables.push(table(&format!("{place}: time in ms"), &timed, Row::milliseconds));
        }
    }
    let first: Vec<_> = rows.iter().filter(|row| row.place == rows[0].place).collect();
    tables.push(table("requests", &first, |row| row.traffic.requests as f64));
    tables.push(table("MB", &first, |row| row.traffic.bytes as f64 / 1e6));
    tables.join("\n")
}

/// Returns a table with a line for each item, and the sums of all tables and all queries. Each format but the first has
/// its ratio to the first.
fn table(title: &str, rows: &[&Row], measure: fn(&Row) -> f64) -> String {
    let items: Vec<_> = rows.iter().filter(|row| row.frame_len == rows[0].frame_len).map(|row| &row.item).collect();
    let formats: Vec<_> = rows.iter().filter(|row| row.item == *items[0]).map(|row| row.format()).collect();
    let ratios = formats[1..].iter().map(|format| format!("{format} | ratio |"));
    let mut out = format!("| {title} | {} | {}\n", formats[0], ratios.collect::<Vec<_>>().join(" "));
    out += &format!("|---|---|{}\n", "---|---|".repeat(formats.len() - 1));

    let mut line = |name: &str, of_item: &dyn Fn(&str) -> bool| {
        let sum = |format: &String| -> f64 {
            rows.iter().filter(|row| row.format() == *format && of_item(&row.item)).map(|row| measure(row)).sum()
        };
        let first = sum(&formats[0]);
        write!(out, "| {name} | {first:.1} |").expect("text");
        for value in formats[1..].iter().map(sum) {
            write!(out, " {value:.1} | {:.2} |", value / first).expect("text");
        }
        out.push('\n');
    };
    items.iter().for_each(|name| line(name, &|item| item == *name));
    line("**all tables written**", &|item| item.starts_with("write "));
    line("**all queries**", &|item| item.starts_with('Q'));
    out
}
