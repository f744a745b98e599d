//! The results of the measurement, as CSV and Markdown.

use std::{fmt::Write, time::Duration};

use crate::{bench::Contender, store::Traffic};

/// The time and traffic of one store for one table or query.
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

    fn milliseconds(&self) -> f64 {
        self.time.as_secs_f64() * 1e3
    }

    fn format(&self) -> String {
        self.frame_len.map_or("plain".into(), |len| format!("{} KiB", len / 1024))
    }
}

pub(crate) fn csv(rows: &[Row]) -> String {
    let mut out = String::from("place,format,item,milliseconds,requests,bytes\n");
    for row in rows {
        let (milliseconds, Traffic { requests, bytes }) = (row.milliseconds(), row.traffic);
        writeln!(out, "{},{},{},{milliseconds:.3},{requests},{bytes}", row.place, row.format(), row.item)
            .expect("text");
    }
    out
}

/// Returns a table of times for each place, and tables of requests and bytes, which do not depend on the place.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let of = |place| rows.iter().filter(move |row| row.place == place);
    let timed = |place| of(place).filter(|row| row.item != "open tables").collect::<Vec<_>>();
    [
        table("memory: time in ms", &timed("memory"), Row::milliseconds),
        table("folder: time in ms", &timed("folder"), Row::milliseconds),
        table("requests", &of("memory").collect::<Vec<_>>(), |row| row.traffic.requests as f64),
        table("MB", &of("memory").collect::<Vec<_>>(), |row| row.traffic.bytes as f64 / 1e6),
    ]
    .join("\n")
}

/// Returns a table with a line for each item, and the sums of all tables and all queries. Each encrypted format has its
/// ratio to the plain one.
fn table(title: &str, rows: &[&Row], measure: fn(&Row) -> f64) -> String {
    let items: Vec<_> = rows.iter().filter(|row| row.frame_len.is_none()).map(|row| &row.item).collect();
    let formats: Vec<_> = rows.iter().filter(|row| row.item == *items[0]).map(|row| row.format()).collect();
    let ratios = formats[1..].iter().map(|format| format!("{format} | ratio |"));
    let mut out = format!("| {title} | plain | {}\n", ratios.collect::<Vec<_>>().join(" "));
    out += &format!("|---|---|{}\n", "---|---|".repeat(formats.len() - 1));

    let mut line = |name: &str, of_item: &dyn Fn(&str) -> bool| {
        let sum = |format: &String| -> f64 {
            rows.iter().filter(|row| row.format() == *format && of_item(&row.item)).map(|row| measure(row)).sum()
        };
        let plain = sum(&formats[0]);
        write!(out, "| {name} | {plain:.1} |").expect("text");
        for value in formats[1..].iter().map(sum) {
            write!(out, " {value:.1} | {:.2} |", value / plain).expect("text");
        }
        out.push('\n');
    };
    items.iter().for_each(|name| line(name, &|item| item == *name));
    line("**all tables written**", &|item| item.starts_with("write "));
    line("**all queries**", &|item| item.starts_with('Q'));
    out
}
