//! How each join and leave spreads: when the first, the middle and the last watcher were told, and
//! whether all were.
//!
//! # Flow
//! ```text
//! worker that made it     made(event, watchers there)  ┐
//! every worker            saw(event, time) a watcher   ┴─ News, each second ──> Spread (coordinator)
//! Spread ── an event that reached everybody, or all that are left at the end ──> Outcome
//! ```
//!
//! # Invariants
//! - Watchers are the clients that were there when it happened. One that is never told by an update
//!   counts as infinitely late, also if a fresh snapshot tells it.
//! - Workers hand over what they have each second, whole or not: parts of one event add up. So a
//!   worker holds a second's events, and the coordinator those that have not reached everybody, at
//!   most [`OPEN_MAX`].
//! - The first and the last time are exact; the middle one is right to 0.2 %.

use std::collections::BTreeMap;

use crate::lobby::Seen;
use crate::plan::Moments;
use crate::recorder::{Metric, Missing};

/// Events that the coordinator holds at most, waiting for further watchers; then the oldest is
/// settled as it is. At some 2 KB each 40 MB.
pub const OPEN_MAX: usize = 20_000;

/// One join or leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// When it happened, on the run's clock.
    pub when_ns: u64,
    /// Which visitor.
    pub visitor: u32,
    /// Whether they joined.
    pub joined: bool,
}

impl Event {
    /// What a visitor did at a moment.
    #[must_use]
    pub fn new(seen: Seen, when_ns: u64) -> Self {
        Self { when_ns, visitor: seen.visitor, joined: seen.joined }
    }
}

/// When watchers were told of one event: a histogram of few values, since they are told together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    told: u64,
    first_ns: u64,
    last_ns: u64,
    /// Bucket and count, in the order of buckets.
    buckets: Vec<(u16, u32)>,
}

/// Buckets of one power of two: 0.4 % wide.
const OCTAVE: u64 = 256;

fn bucket(ns: u64) -> u16 {
    if ns < OCTAVE {
        return ns as u16;
    }
    let shift = ns.ilog2() - OCTAVE.ilog2();
    (u64::from(shift) * OCTAVE + (ns >> shift)) as u16
}

/// The middle of a bucket.
fn value(bucket: u16) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < 2 * OCTAVE {
        return bucket;
    }
    let shift = bucket / OCTAVE - 1;
    ((OCTAVE + bucket % OCTAVE) << shift) + (1 << shift) / 2
}

impl Times {
    /// One more watcher was told, so long after the event.
    pub fn note(&mut self, ns: u64) {
        self.first_ns = if self.told == 0 { ns } else { self.first_ns.min(ns) };
        self.last_ns = self.last_ns.max(ns);
        self.told += 1;
        let bucket = bucket(ns);
        // One worker's clock only goes on: its times come in order.
        match self.buckets.last_mut() {
            Some((last, count)) if *last == bucket => *count += 1,
            Some((last, _)) if *last > bucket => self.insert(bucket, 1),
            _ => self.buckets.push((bucket, 1)),
        }
    }

    fn insert(&mut self, bucket: u16, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |&(bucket, _)| bucket) {
            Ok(at) => self.buckets[at].1 += count,
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }

    /// Adds other watchers of the same event.
    pub fn add(&mut self, other: &Self) {
        if other.told == 0 {
            return;
        }
        self.first_ns = if self.told == 0 { other.first_ns } else { self.first_ns.min(other.first_ns) };
        self.last_ns = self.last_ns.max(other.last_ns);
        self.told += other.told;
        for &(bucket, count) in &other.buckets {
            self.insert(bucket, count);
        }
    }

    /// When half of so many watchers had been told; `None` if that never was.
    #[must_use]
    pub fn median(&self, watchers: u64) -> Option<u64> {
        let rank = watchers.div_ceil(2).max(1);
        let mut seen = 0;
        let at = self.buckets.iter().find(|&&(_, count)| {
            seen += u64::from(count);
            seen >= rank
        });
        at.map(|&(bucket, _)| value(bucket).clamp(self.first_ns, self.last_ns))
    }
}

/// What one worker has to tell since it last did.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// Events that its visitors made, and how many watchers were there.
    made: Vec<(Event, u64)>,
    /// Events that its watchers were told of.
    seen: Vec<(Event, Times)>,
}

/// What one worker's watchers are told.
#[derive(Debug, Default)]
pub struct Sightings {
    news: News,
    /// By visitor and kind: where in `news` its latest event is.
    places: Vec<Option<usize>>,
}

impl Sightings {
    /// A visitor of this worker has joined or left, before the eyes of so many.
    pub fn made(&mut self, event: Event, watchers: u64) {
        self.news.made.push((event, watchers));
    }

    /// A watcher was told of an event, so long after it.
    pub fn saw(&mut self, event: Event, ns: u64) {
        let slot = event.visitor as usize * 2 + usize::from(event.joined);
        if self.places.len() <= slot {
            self.places.resize(slot + 1, None);
        }
        let seen = &mut self.news.seen;
        let place = match self.places[slot].filter(|&place| seen[place].0 == event) {
            Some(place) => place,
            None => {
                seen.push((event, Times::default()));
                self.places[slot] = Some(seen.len() - 1);
                seen.len() - 1
            }
        };
        seen[place].1.note(ns);
    }

    /// Hands over what there is.
    pub fn take(&mut self) -> News {
        self.places.clear();
        std::mem::take(&mut self.news)
    }
}

#[derive(Debug, Default)]
struct Open {
    /// `None` until the worker that made it has told.
    watchers: Option<u64>,
    times: Times,
}

/// What one event came to. `None` is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settled {
    when_ns: u64,
    first_ns: Option<u64>,
    median_ns: Option<u64>,
    last_ns: Option<u64>,
}

/// All joins and leaves of a run.
#[derive(Debug, Default)]
pub struct Spread {
    open: BTreeMap<Event, Open>,
    settled: Vec<Settled>,
    reach: Reach,
}

/// How far joins and leaves reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reach {
    /// Joins and leaves of the steady phase.
    pub events: u64,
    /// Of those, the ones that some watcher was never told of.
    pub incomplete: u64,
    /// Watchers there, summed over all joins.
    pub join_watchers: u64,
    /// Watchers there, summed over all leaves.
    pub leave_watchers: u64,
    /// Watchers told, summed over all events.
    pub told: u64,
}

impl Reach {
    /// Adds the events of another generator.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.incomplete += other.incomplete;
        self.join_watchers += other.join_watchers;
        self.leave_watchers += other.leave_watchers;
        self.told += other.told;
    }

    /// Watchers told ÷ watchers there, over all events; `None` without any.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        let there = self.join_watchers + self.leave_watchers;
        (there > 0).then(|| self.told as f64 / there as f64)
    }
}

impl Spread {
    /// Takes one worker's news.
    pub fn take(&mut self, news: News) {
        for (event, watchers) in news.made {
            self.open.entry(event).or_default().watchers = Some(watchers);
            self.settle_if_whole(event);
        }
        for (event, times) in news.seen {
            self.open.entry(event).or_default().times.add(&times);
            self.settle_if_whole(event);
        }
        while self.open.len() > OPEN_MAX
            && let Some((event, open)) = self.open.pop_first()
        {
            self.settle(event, &open);
        }
    }

    fn settle_if_whole(&mut self, event: Event) {
        let whole = |open: &Open| open.watchers.is_some_and(|watchers| open.times.told >= watchers);
        if self.open.get(&event).is_some_and(whole)
            && let Some(open) = self.open.remove(&event)
        {
            self.settle(event, &open);
        }
    }

    fn settle(&mut self, event: Event, open: &Open) {
        // Whoever saw it was there, even if the worker that made it never told.
        let times = &open.times;
        let watchers = open.watchers.unwrap_or(times.told);
        let whole = times.told >= watchers;
        self.reach.events += 1;
        self.reach.incomplete += u64::from(!whole);
        self.reach.told += times.told.min(watchers);
        *(if event.joined { &mut self.reach.join_watchers } else { &mut self.reach.leave_watchers }) += watchers;
        if watchers > 0 {
            self.settled.push(Settled {
                when_ns: event.when_ns,
                first_ns: (times.told > 0).then_some(times.first_ns),
                median_ns: times.median(watchers),
                last_ns: whole.then_some(times.last_ns),
            });
        }
    }

    /// Settles what is left and hands every time to `record`, with the event's own. Says how far they
    /// reached; how many times never came is noted in `missing`.
    pub fn finish(
        mut self,
        moments: &Moments,
        mut record: impl FnMut(u64, Metric, u64),
        missing: &mut Missing,
    ) -> Reach {
        while let Some((event, open)) = self.open.pop_first() {
            self.settle(event, &open);
        }
        let mut never = [0; 3];
        for settled in self.settled.iter().filter(|settled| moments.is_steady(settled.when_ns)) {
            let times = [
                (Metric::LobbyFirst, settled.first_ns),
                (Metric::LobbyMedian, settled.median_ns),
                (Metric::LobbyLast, settled.last_ns),
            ];
            for ((metric, ns), never) in times.into_iter().zip(&mut never) {
                match ns {
                    Some(ns) => record(settled.when_ns, metric, ns),
                    None => *never += 1,
                }
            }
        }
        for (metric, never) in [Metric::LobbyFirst, Metric::LobbyMedian, Metric::LobbyLast].into_iter().zip(never) {
            missing.set(metric, never);
        }
        self.reach
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, OPEN_MAX, Reach, Sightings, Spread, Times, bucket, value};
    use crate::plan::Moments;
    use crate::recorder::{Metric, Missing, Recorder};

    const MOMENTS: Moments = Moments { begin_ns: 0, steady_ns: 10, end_ns: u64::MAX };

    fn event(visitor: u32, joined: bool) -> Event {
        Event { when_ns: 100, visitor, joined }
    }

    fn finish(spread: Spread) -> (Recorder, Missing, Reach) {
        let (mut recorder, mut missing) = (Recorder::default(), Missing::default());
        let reach = spread.finish(&MOMENTS, |_, metric, ns| recorder.record(metric, ns), &mut missing);
        (recorder, missing, reach)
    }

    fn exact(recorder: &Recorder, metric: Metric) -> Vec<u64> {
        recorder.of(metric).iter_recorded().map(|entry| entry.value_iterated_to()).collect()
    }

    #[test]
    fn buckets_are_right_to_a_fifth_of_a_percent() {
        for ns in (0..600).chain([1 << 20, (1 << 20) + 12_345, 999_999_999, u64::from(u32::MAX), u64::MAX / 2]) {
            let middle = value(bucket(ns));
            assert!(middle.abs_diff(ns) as f64 <= ns as f64 * 0.002, "{ns}: {middle}");
            assert_eq!(bucket(middle), bucket(ns));
        }
        assert!(bucket(511) < bucket(512) && bucket(1_000_000) < bucket(1_005_000));
    }

    #[test]
    fn first_median_and_last_are_those_computed_by_hand() {
        let mut times = Times::default();
        for ns in [200, 210, 220, 500, 90] {
            times.note(ns);
        }
        assert_eq!((times.first_ns, times.last_ns), (90, 500));
        // Of five told: 90, 200, 210, 220, 500.
        assert_eq!(times.median(5), Some(210));
        // Of nine there the fifth was told at 500; of eleven the sixth never.
        assert_eq!(times.median(9), Some(500));
        assert_eq!(times.median(11), None);
    }

    #[test]
    fn parts_of_all_workers_make_one_event() {
        let (mut one, mut two, mut spread) = (Sightings::default(), Sightings::default(), Spread::default());
        one.made(event(3, true), 5);
        for ns in [10, 30] {
            one.saw(event(3, true), ns);
        }
        two.saw(event(3, true), 20);
        spread.take(two.take());
        spread.take(one.take());
        assert_eq!(spread.open.len(), 1);
        // A second later the rest is told; each hand-over has its own part.
        two.saw(event(3, true), 40);
        two.saw(event(3, true), 50);
        spread.take(two.take());
        assert!(spread.open.is_empty());
        let (recorder, missing, reach) = finish(spread);
        assert_eq!(exact(&recorder, Metric::LobbyFirst), [10]);
        assert_eq!(exact(&recorder, Metric::LobbyMedian), [30]);
        assert_eq!(exact(&recorder, Metric::LobbyLast), [50]);
        assert_eq!(missing, Missing::default());
        assert_eq!(reach, Reach { events: 1, incomplete: 0, join_watchers: 5, leave_watchers: 0, told: 5 });
    }

    #[test]
    fn who_is_never_told_makes_the_last_infinite() {
        let (mut sightings, mut spread) = (Sightings::default(), Spread::default());
        sightings.made(event(1, false), 4);
        sightings.made(event(2, false), 4);
        for ns in [10, 20, 30] {
            sightings.saw(event(1, false), ns);
        }
        spread.take(sightings.take());
        let (recorder, missing, reach) = finish(spread);
        assert_eq!((exact(&recorder, Metric::LobbyFirst), exact(&recorder, Metric::LobbyMedian)), (vec![10], vec![20]));
        assert!(exact(&recorder, Metric::LobbyLast).is_empty());
        let never = [Metric::LobbyFirst, Metric::LobbyMedian, Metric::LobbyLast].map(|metric| missing.of(metric));
        assert_eq!(never, [1, 1, 2]);
        assert_eq!((reach.events, reach.incomplete, reach.share()), (2, 2, Some(0.375)));
    }

    #[test]
    fn an_older_event_of_the_same_visitor_stays_apart() {
        let (mut sightings, mut spread) = (Sightings::default(), Spread::default());
        let later = Event { when_ns: 900, ..event(1, true) };
        sightings.made(event(1, true), 1);
        sightings.made(later, 1);
        sightings.saw(event(1, true), 7);
        sightings.saw(later, 8);
        spread.take(sightings.take());
        let (recorder, _, reach) = finish(spread);
        assert_eq!(exact(&recorder, Metric::LobbyLast), [7, 8]);
        assert_eq!(reach.incomplete, 0);
    }

    #[test]
    fn what_is_outside_the_steady_phase_is_not_recorded() {
        let (mut sightings, mut spread) = (Sightings::default(), Spread::default());
        let early = Event { when_ns: 9, ..event(1, true) };
        sightings.made(early, 1);
        sightings.saw(early, 7);
        spread.take(sightings.take());
        assert!(exact(&finish(spread).0, Metric::LobbyLast).is_empty());
    }

    #[test]
    fn the_oldest_gives_way() {
        let (mut sightings, mut spread) = (Sightings::default(), Spread::default());
        for when_ns in 0..OPEN_MAX as u64 + 3 {
            sightings.made(Event { when_ns, ..event(0, true) }, 2);
        }
        spread.take(sightings.take());
        assert_eq!((spread.open.len(), spread.settled.len()), (OPEN_MAX, 3));
        assert_eq!(spread.open.first_key_value().unwrap().0.when_ns, 3);
    }
}
