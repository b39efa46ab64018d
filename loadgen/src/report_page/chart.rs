//! One chart as inline SVG that takes the width it is given: places are per cent of the plot, so letters
//! and strokes keep their size on a phone, a screen and paper. Colours and dashes are the style sheet's.
//!
//! Lines lie in an inner picture of 1000 × 1000 units that is stretched; its strokes are not. Names of
//! ticks stand outside of the plot, in the margin that the style sheet leaves.

use std::fmt::Write;

use maud::{Markup, html};

use super::scale::Tick;

/// A named scale of a plot.
#[derive(Debug)]
pub(super) struct Axis {
    /// What it shows, with the unit where ticks have none.
    pub(super) title: &'static str,
    /// Its named places.
    pub(super) ticks: Vec<Tick>,
}

/// Where a point lies: to the right and upwards, each 0 to 1.
pub(super) type Point = (f64, f64);

/// One line of a chart.
#[derive(Debug)]
pub(super) struct Line {
    /// What it shows.
    pub(super) name: String,
    /// Its class in the style sheet: colour and dashes.
    pub(super) class: &'static str,
    /// Where it runs; it is broken where there is nothing.
    pub(super) points: Vec<Option<Point>>,
    /// What is told beside its name.
    pub(super) figure: String,
}

/// A target.
#[derive(Debug)]
pub(super) struct Gate {
    /// The target.
    pub(super) name: String,
    /// How it is drawn.
    pub(super) bound: Bound,
}

/// How a target bounds the lines of a chart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// They have to pass below and to the right of a corner.
    Corner(Point),
    /// A height to compare them with.
    Level(f64),
}

/// A column of a chart that tells its values to who points at it.
#[derive(Debug)]
pub(super) struct Column {
    /// Where it begins and ends.
    pub(super) from: f64,
    /// See `from`.
    pub(super) to: f64,
    /// The values, one a line.
    pub(super) text: String,
}

/// A chart.
#[derive(Debug)]
pub(super) struct Chart {
    /// Tells its parts from those of other charts on the page.
    pub(super) id: &'static str,
    /// What it shows.
    pub(super) title: &'static str,
    /// What it comes to, for who cannot see it.
    pub(super) description: String,
    /// To the right.
    pub(super) x: Axis,
    /// Upwards.
    pub(super) y: Axis,
    /// The first is drawn last, above the others.
    pub(super) lines: Vec<Line>,
    /// Targets.
    pub(super) gates: Vec<Gate>,
    /// Columns, from left to right.
    pub(super) columns: Vec<Column>,
    /// Whether it is a low one.
    pub(super) low: bool,
}

impl Chart {
    /// The figure: legend, chart, caption.
    pub(super) fn render(&self, caption: &Markup) -> Markup {
        let title = format!("{}-title", self.id);
        let description = format!("{}-description", self.id);
        html! {
            figure {
                ul.legend {
                    @for line in &self.lines {
                        li {
                            svg.swatch width="30" height="10" aria-hidden="true" {
                                line.line.(line.class) x1="1" x2="29" y1="5" y2="5" {}
                            }
                            " " (line.name)
                            @if !line.figure.is_empty() { " " b { (line.figure) } }
                        }
                    }
                    @if !self.gates.is_empty() {
                        li {
                            svg.swatch width="30" height="10" aria-hidden="true" {
                                @if self.has_corner() { rect.shut width="30" height="10" {} }
                                line.gate x1="0" x2="30" y1="9" y2="9" {}
                            }
                            @if self.has_corner() { " target: the shaded corner is out of bounds" }
                            @else { " target, for the whole run" }
                        }
                    }
                }
                p.axis-title { (self.y.title) }
                div.plot.low[self.low] {
                    svg role="img" aria-labelledby=(title) aria-describedby=(description)
                        width="100%" height="100%" {
                        title id=(title) { (self.title) }
                        desc id=(description) { (self.description) }
                        (self.grid())
                        @for gate in &self.gates { (draw_gate(gate)) }
                        svg width="100%" height="100%" viewBox="0 0 1000 1000" preserveAspectRatio="none" {
                            @for line in self.lines.iter().rev() {
                                path.line.(line.class) d=(path(&line.points)) vector-effect="non-scaling-stroke" {}
                            }
                        }
                        @for column in &self.columns {
                            rect.column x=(percent(column.from)) width=(percent(column.to - column.from)) y="0"
                                height="100%" {
                                title { (column.text) }
                            }
                        }
                    }
                }
                p.axis-title.below { (self.x.title) }
                figcaption { (caption) }
            }
        }
    }

    fn has_corner(&self) -> bool {
        self.gates.iter().any(|gate| matches!(gate.bound, Bound::Corner(_)))
    }

    fn grid(&self) -> Markup {
        html! {
            g.grid {
                @for tick in &self.y.ticks {
                    @let y = percent(1.0 - tick.place);
                    line x1="0" x2="100%" y1=(y) y2=(y) {}
                }
                @for tick in &self.x.ticks {
                    @let x = percent(tick.place);
                    line x1=(x) x2=(x) y1="0" y2="100%" {}
                }
            }
            g.ticks {
                @for tick in &self.y.ticks {
                    text x="-8" y=(percent(1.0 - tick.place)) dy="0.35em" text-anchor="end" { (tick.label) }
                }
                @for tick in &self.x.ticks {
                    // At the right edge it would stand out of the page.
                    @let anchor = if tick.place > 0.96 { "end" } else { "middle" };
                    text.minor[tick.minor] x=(percent(tick.place)) y="100%" dy="1.5em" text-anchor=(anchor) {
                        (tick.label)
                    }
                }
            }
        }
    }
}

fn draw_gate(gate: &Gate) -> Markup {
    let (corner, height) = match gate.bound {
        Bound::Corner(corner) => (Some(corner.0), corner.1),
        Bound::Level(height) => (None, height),
    };
    let (x, y) = (percent(corner.unwrap_or(1.0)), percent(1.0 - height));
    // Where the name would not fit before the corner, it stands behind it.
    let before = corner.is_none_or(|x| x > 0.25);
    html! {
        @if corner.is_some() {
            rect.shut x="0" y="0" width=(x) height=(y) {}
            line.gate x1=(x) x2=(x) y1="0" y2=(y) {}
        }
        line.gate x1="0" x2=(x) y1=(y) y2=(y) {}
        text.gate-name x=(x) y=(y) dx=(if before { "-6" } else { "6" }) dy="-6"
            text-anchor=(if before { "end" } else { "start" }) { (gate.name) }
    }
}

/// A place in the stretched picture or on the plot: one decimal of a thousandth is less than a pixel.
fn percent(place: f64) -> String {
    format!("{}%", crate::units::trim_zeros(&format!("{:.2}", place * 100.0)))
}

/// Straight from point to point; a point alone is a dot, by the round ends of strokes.
fn path(points: &[Option<Point>]) -> String {
    let mut path = String::with_capacity(points.len() * 10);
    let mut drawing = false;
    for (at, point) in points.iter().enumerate() {
        let Some((x, y)) = point else {
            drawing = false;
            continue;
        };
        let (x, y) = (x * 1000.0, (1.0 - y) * 1000.0);
        let alone = !drawing && points.get(at + 1).is_none_or(Option::is_none);
        // Writing to a String cannot fail.
        let _ = write!(path, "{}{x:.1} {y:.1}", if drawing { "L" } else { "M" });
        if alone {
            path.push_str("h0");
        }
        drawing = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::{path, percent};

    #[test]
    fn lines_break_where_there_is_nothing_and_lonely_points_are_dots() {
        let points = [Some((0.0, 0.0)), Some((0.5, 1.0)), None, Some((1.0, 0.25)), None];
        assert_eq!(path(&points), "M0.0 1000.0L500.0 0.0M1000.0 750.0h0");
        assert_eq!(path(&[]), "");
    }

    #[test]
    fn places_are_short() {
        assert_eq!(
            (percent(0.5).as_str(), percent(1.0 / 3.0).as_str(), percent(0.0).as_str()),
            ("50%", "33.33%", "0%")
        );
    }
}
