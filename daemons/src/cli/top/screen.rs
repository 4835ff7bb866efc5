//! What `quorate top` draws.

use super::{super::faults::seen_at, Look};
use crate::api::{FaultStatus, ProcessStatus, QueueStatus, ScalingStatus};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

/// Looks of which the load is shown.
const HISTORY: usize = 60;

/// Faults that are shown.
const FAULTS: usize = 6;

/// All that is on the screen.
pub(super) struct Screen {
    url: String,
    look: Look,
    /// When that was seen; `None` before the first answer.
    seen: Option<Instant>,
    /// Why the last look saw nothing.
    trouble: Option<String>,
    /// Loads of each function, oldest first.
    loads: BTreeMap<String, VecDeque<f64>>,
}

impl Screen {
    pub(super) fn new(url: String) -> Self {
        Self { url, look: Look::default(), seen: None, trouble: None, loads: BTreeMap::new() }
    }

    pub(super) fn see(&mut self, look: Look, now: Instant) {
        for scaling in &look.scaling {
            let loads = self.loads.entry(scaling.function.clone()).or_default();
            if loads.len() == HISTORY {
                loads.pop_front();
            }
            loads.push_back(scaling.observed);
        }
        self.look = look;
        self.seen = Some(now);
        self.trouble = None;
    }

    pub(super) fn miss(&mut self, why: String) {
        self.trouble = Some(why);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>, now: Instant) {
        let sets = sets(&self.look.processes);
        let queues: Vec<_> = self.look.queues.iter().filter(|queue| is_shown(queue)).collect();
        let faults = self.look.faults.len().clamp(1, FAULTS);
        let rows =
            |rows: usize| Constraint::Length(u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2));
        let [head, rest] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(frame.area());
        let [functions, of_sets, of_queues, of_faults, _] = Layout::vertical([
            rows(self.look.scaling.len().max(1)),
            rows(sets.len().max(1)),
            rows(queues.len().max(1)),
            rows(faults),
            Constraint::Min(0),
        ])
        .areas(rest);
        frame.render_widget(Paragraph::new(self.head(now)), head);
        self.draw_functions(frame, functions);
        draw_sets(frame, of_sets, &sets);
        draw_queues(frame, of_queues, &queues);
        draw_faults(frame, of_faults, &self.look.faults);
    }

    fn head(&self, now: Instant) -> Line<'static> {
        let mut spans = vec!["quorate ".bold(), Span::raw(self.url.clone()), "   q ends it".dim()];
        if let Some(trouble) = &self.trouble {
            let since = self.seen.map(|seen| now.duration_since(seen).as_secs());
            let since = since.map_or_else(|| "nothing seen yet".into(), |s| format!("as it was {s} s ago"));
            spans.push(format!("   {since}: {trouble}").fg(Color::Red));
        }
        Line::from(spans)
    }

    fn draw_functions(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.look.scaling.iter().map(|scaling| {
            let loads = self.loads.get(&scaling.function);
            let changes = scaling.desired != scaling.ready;
            let pods = format!("{}/{}", scaling.ready, scaling.desired);
            let forecast = scaling.forecast.map(short).unwrap_or_default();
            Row::new([
                Cell::from(scaling.function.clone()),
                Cell::from(pods).style(if changes { Color::Yellow.into() } else { Style::new() }),
                Cell::from(scaling.waiting.to_string()).style(if scaling.waiting > 0 {
                    Color::Yellow.into()
                } else {
                    Style::new()
                }),
                Cell::from(scaling.in_service.to_string()),
                Cell::from(short(scaling.observed)),
                Cell::from(forecast),
                Cell::from(scaling.policy.clone()),
                Cell::from(reason(scaling)),
                Cell::from(loads.map(spark).unwrap_or_default()).style(Color::Cyan),
            ])
        });
        let header =
            ["FUNCTION", "PODS", "WAITING", "RUNNING", "LOAD", "FORECAST", "POLICY", "REASON", "LOAD SO FAR"];
        let widths = [10, 7, 8, 8, 7, 9, 12, 22].map(Constraint::Length);
        let widths = widths.into_iter().chain([Constraint::Min(10)]);
        frame.render_widget(table(header, rows.collect(), "nothing was scaled yet", widths), area);
    }
}

/// The rule that decided; where a limit did, what the policy had asked for.
fn reason(scaling: &ScalingStatus) -> String {
    match (scaling.valid, scaling.wanted == scaling.desired) {
        (false, _) => "cannot see it".into(),
        (true, true) => scaling.reason.replace('_', " "),
        (true, false) => format!("{} (of {})", scaling.reason.replace('_', " "), scaling.wanted),
    }
}

/// A load in few characters.
fn short(load: f64) -> String {
    if load < 10.0 { format!("{load:.2}") } else { format!("{load:.0}") }
}

/// A bar for each load, as high as it is of the highest.
fn spark(loads: &VecDeque<f64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let highest = loads.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7, and NaN is 0")]
    loads.iter().map(|load| BARS[((load / highest * 7.0).ceil() as usize).min(7)]).collect()
}

/// A set in a line.
struct Set<'a> {
    name: &'a str,
    worker: Option<&'a ProcessStatus>,
    replicas: Vec<&'a ProcessStatus>,
}

fn sets(processes: &[ProcessStatus]) -> Vec<Set<'_>> {
    let mut sets: BTreeMap<&str, Set<'_>> = BTreeMap::new();
    for process in processes {
        let Some(name) = process.set.as_deref() else { continue };
        let set = sets.entry(name).or_insert_with(|| Set { name, worker: None, replicas: Vec::new() });
        match process.index {
            None => set.worker = Some(process),
            Some(_) => set.replicas.push(process),
        }
    }
    sets.into_values().collect()
}

fn draw_sets(frame: &mut Frame<'_>, area: Rect, sets: &[Set<'_>]) {
    let rows = sets.iter().map(|set| {
        let state = set.worker.map_or("down", |worker| &worker.state);
        let view = set.replicas.iter().filter_map(|replica| replica.view).max();
        let sign = |replica: &&ProcessStatus| match (replica.state.as_str(), replica.primary) {
            ("ready", Some(true)) => "P".bold(),
            ("ready", _) => Span::raw("o"),
            ("starting", _) => ".".fg(Color::Yellow),
            _ => "x".fg(Color::Red),
        };
        Row::new([
            Cell::from(set.name.to_owned()),
            Cell::from(state.to_owned()).style(match state {
                "ready" => Color::Green,
                "down" => Color::Red,
                _ => Color::Yellow,
            }),
            Cell::from(Line::from_iter(set.replicas.iter().map(sign))),
            Cell::from(view.map(|view| view.to_string()).unwrap_or_default()),
            Cell::from(
                set.worker.and_then(|worker| worker.incarnation).map_or_else(String::new, |n| n.to_string()),
            ),
            Cell::from(set.worker.and_then(|worker| worker.address.clone()).unwrap_or_default()),
        ])
    });
    let widths = [10, 10, 9, 6, 12].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    let header = ["SET", "STATE", "REPLICAS", "VIEW", "INCARNATION", "WORKER"];
    frame.render_widget(
        table(header, rows.collect(), "none runs: the first request starts some", widths),
        area,
    );
}

fn is_shown(queue: &QueueStatus) -> bool {
    queue.waiting + queue.in_flight + queue.dead > 0
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, queues: &[&QueueStatus]) {
    let rows = queues.iter().map(|queue| {
        Row::new([
            Cell::from(queue.queue.clone()),
            Cell::from(queue.waiting.to_string()),
            Cell::from(queue.in_flight.to_string()),
            Cell::from(queue.dead.to_string()).style(if queue.dead > 0 {
                Color::Red.into()
            } else {
                Style::new()
            }),
        ])
    });
    let widths = [32, 9, 11].map(Constraint::Length).into_iter().chain([Constraint::Min(6)]);
    let header = ["QUEUE", "WAITING", "IN FLIGHT", "DEAD"];
    frame.render_widget(table(header, rows.collect(), "all are empty", widths), area);
}

fn draw_faults(frame: &mut Frame<'_>, area: Rect, faults: &[FaultStatus]) {
    // The latest first: it is the one that people look for.
    let rows = faults.iter().rev().take(FAULTS).map(|fault| {
        Row::new([
            Cell::from(seen_at(fault)),
            Cell::from(fault.kind.to_string()),
            Cell::from(fault.pod.clone()),
            Cell::from(fault.how.clone()),
            Cell::from(fault.done.clone()),
        ])
    });
    let widths = [22, 5, 20, 9].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    let header = ["FAULT", "TYPE", "POD", "HOW", "DONE"];
    frame.render_widget(table(header, rows.collect(), "none so far", widths), area);
}

/// Rows below their header; without any, a word for that.
fn table<'a, const N: usize>(
    header: [&'static str; N],
    mut rows: Vec<Row<'a>>,
    none: &'static str,
    widths: impl IntoIterator<Item = Constraint>,
) -> Table<'a> {
    let mut widths: Vec<_> = widths.into_iter().collect();
    if rows.is_empty() {
        rows.push(Row::new([Cell::from(none).style(Modifier::DIM)]));
        widths = vec![Constraint::Min(0)];
        return Table::new(rows, widths).header(Row::new([header[0]]).style(Modifier::BOLD));
    }
    Table::new(rows, widths).header(Row::new(header).style(Modifier::BOLD)).column_spacing(1)
}

#[cfg(test)]
mod tests;
