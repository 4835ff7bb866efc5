//! A picture of a replay: load, pods of each policy, and how long the first in the queue has waited.

use super::{Failure, SimulateError, Subject, runs::Plan};
use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use quorate_scaler::{
    policy::AnyPolicy,
    sim::{Replay, Workload},
};
use std::path::{Path, PathBuf};

const SIZE: (u32, u32) = (1200, 900);

/// Points across: more would fall on one another.
const POINTS: u64 = 560;

/// Policies that can be told apart.
pub(super) const POLICIES_MAX: usize = 8;

/// Pixels at the right in which the policies' names stand.
const LEGEND: i32 = 190;

const INK: RGBColor = RGBColor(38, 43, 51);
const FAINT: RGBColor = RGBColor(226, 229, 234);
const LOAD: RGBColor = RGBColor(150, 158, 170);

/// Colours that also those can tell apart who see fewer (Okabe and Ito, 2008), the clearest first.
const COLOURS: [RGBColor; POLICIES_MAX] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 94, 240),
    RGBColor(90, 90, 90),
];

/// A part of the picture that is drawn into.
type Panel<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// One policy's line: pods, and the longest wait, of each point.
struct Line {
    name: &'static str,
    pods: Vec<f64>,
    waits: Vec<f64>,
}

/// Draws `folder/name.svg`.
pub(super) fn draw(
    folder: &Path,
    name: &str,
    workload: &Workload,
    plan: &Plan,
    subjects: &[Subject],
) -> Result<(), Failure> {
    let path = folder.join(format!("{name}.svg"));
    let lines: Vec<Line> = subjects.iter().filter_map(|subject| line(*subject, workload, plan)).collect();
    let title = format!("{name}: start delay {} s, {} service", plan.start_delays[0], plan.service);
    picture(&path, &title, workload, &lines)
        .map_err(|error| SimulateError::Chart { path, detail: error.to_string() }.into())
}

/// How many points there are, and the one that a second falls on.
fn point(workload: &Workload, second: u64) -> usize {
    let points = POINTS.min(workload.seconds());
    usize::try_from(second.min(workload.seconds() - 1) * points / workload.seconds()).unwrap_or(0)
}

fn line(subject: Subject, workload: &Workload, plan: &Plan) -> Option<Line> {
    let Subject::Policy(name) = subject else { return None };
    let points = point(workload, u64::MAX) + 1;
    let mut line = Line { name: name.as_str(), pods: vec![0.0; points], waits: vec![0.0; points] };
    let replay = Replay { start_delay: plan.start_delay(0), ..Replay::default() };
    replay.watch(workload, &mut AnyPolicy::new(name, &replay.conditions()), |tick| {
        let at = point(workload, tick.observation.now.as_micros() / 1_000_000);
        let seen = tick.observation;
        line.pods[at] = line.pods[at].max(f64::from(seen.ready + seen.starting + seen.draining));
        line.waits[at] = line.waits[at].max(seen.oldest_wait.as_f64());
    });
    Some(line)
}

fn picture(
    path: &PathBuf,
    title: &str,
    workload: &Workload,
    lines: &[Line],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = point(workload, u64::MAX) + 1;
    let mut load = vec![0.0_f64; points];
    for second in 0..workload.seconds() {
        let at = point(workload, second);
        load[at] = load[at].max(workload.load(second));
    }
    let unit = if workload.seconds() > 3 * 3600 { Unit::Hours } else { Unit::Minutes };
    let length = workload.seconds() as f64 / unit.seconds();
    let x = |at: usize| (at as f64 + 0.5) / points as f64 * length;
    let top = |values: &mut dyn Iterator<Item = f64>| values.fold(1.0, f64::max) * 1.05;

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 24).into_font().color(&INK))?;
    let (above, below) = root.split_vertically(190);
    let (middle, below) = below.split_vertically(380);

    let mut chart = panel(
        &above,
        "load: busy pods that the requests need",
        length,
        top(&mut load.iter().copied()),
        None,
    )?;
    let area = load.iter().enumerate().map(|(at, load)| (x(at), *load));
    chart.draw_series(AreaSeries::new(area, 0.0, LOAD.mix(0.35)).border_style(LOAD.stroke_width(1)))?;

    let pods = lines.iter().flat_map(|line| line.pods.iter().copied());
    let high = top(&mut pods.chain(load.iter().copied()));
    let mut chart = panel(&middle, "pods: starting, ready and draining", length, high, None)?;
    let area = load.iter().enumerate().map(|(at, load)| (x(at), *load));
    chart.draw_series(AreaSeries::new(area, 0.0, LOAD.mix(0.25)))?;
    // The first that was named lies on top of the others, and is the thickest.
    let coloured = || lines.iter().zip(COLOURS).enumerate().rev();
    for (at, (line, colour)) in coloured() {
        let pods = line.pods.iter().enumerate().map(|(at, pods)| (x(at), *pods));
        chart.draw_series(LineSeries::new(pods, colour.stroke_width(if at == 0 { 2 } else { 1 })))?;
    }
    for (at, (line, colour)) in (0..).zip(lines.iter().zip(COLOURS)) {
        let (left, middle_of_line) = (SIZE.0.cast_signed() - LEGEND + 16, 40 + 22 * at);
        let ends = [(left, middle_of_line), (left + 22, middle_of_line)];
        middle.draw(&PathElement::new(ends, colour.stroke_width(3)))?;
        let font = ("sans-serif", 14).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        middle.draw(&Text::new(line.name, (left + 30, middle_of_line), font))?;
    }

    let span = workload.seconds().div_ceil(points as u64);
    let description = match span {
        1 => unit.name().to_owned(),
        _ => format!("{}; each point is the highest value within {span} s", unit.name()),
    };
    let high = top(&mut lines.iter().flat_map(|line| line.waits.iter().copied()));
    let mut chart = panel(
        &below,
        "wait of the first in the queue, s (the objective is 1)",
        length,
        high,
        Some(&description),
    )?;
    chart.draw_series([PathElement::new([(0.0, 1.0), (length, 1.0)], INK.mix(0.5).stroke_width(1))])?;
    for (_, (line, colour)) in coloured() {
        let waits = line.waits.iter().enumerate().map(|(at, wait)| (x(at), *wait));
        chart.draw_series(LineSeries::new(waits, colour.mix(0.85).stroke_width(1)))?;
    }
    root.present()?;
    Ok(())
}

/// What the time axis counts.
#[derive(Clone, Copy)]
enum Unit {
    Minutes,
    Hours,
}

impl Unit {
    fn seconds(self) -> f64 {
        match self {
            Self::Minutes => 60.0,
            Self::Hours => 3600.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Minutes => "minutes",
            Self::Hours => "hours",
        }
    }
}

/// Axes and a caption; the last panel says what the time axis shows.
fn panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    caption: &str,
    length: f64,
    high: f64,
    description: Option<&str>,
) -> Result<Panel<'a>, Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin_right(LEGEND)
        .margin_left(8)
        .margin_top(4)
        .caption(caption, ("sans-serif", 16).into_font().color(&INK))
        .x_label_area_size(if description.is_some() { 44 } else { 22 })
        .y_label_area_size(54)
        .build_cartesian_2d(0.0..length, 0.0..high)?;
    // No more places than it takes: 0.25, 10.
    let label = |value: &f64| ((value * 100.0).round() / 100.0).to_string();
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(FAINT).axis_style(LOAD);
    mesh.label_style(("sans-serif", 13).into_font().color(&INK)).y_labels(5).x_labels(12);
    mesh.x_label_formatter(&label).y_label_formatter(&label);
    if let Some(description) = description {
        mesh.x_desc(description).axis_desc_style(("sans-serif", 14).into_font().color(&INK));
    }
    mesh.draw()?;
    Ok(chart)
}
