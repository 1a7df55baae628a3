//! What a watcher does next: a pure state machine.
//!
//! Inputs are what the connection brought; a step says what to do with the object at hand and what to ask for next.
//! The initial state comes as a stream (`sendInitialEvents`, KEP-3157) where the server offers that, as pages of a list
//! where it does not. [`crate::reflect`] does the input and output.

use std::time::Duration;

use base::Backoff;

/// client-go's reflector starts at 800 ms; in memory a shorter first delay costs nothing.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Initial streams that ended early before lists are tried instead.
const BROKEN_STREAMS_MAX: u32 = 2;

/// What to ask the server for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// A page of the list; empty for the first.
    Page { continue_token: String },
    /// The initial state and what follows, as one stream.
    Stream,
    /// What followed a version.
    Watch { version: String },
}

/// What the connection brought.
#[derive(Debug)]
pub(crate) enum Input {
    /// A page (its objects are with the sink already).
    Page {
        continue_token: String,
        version: String,
    },
    /// An object was added, changed or deleted.
    Event {
        version: String,
    },
    Bookmark {
        version: String,
        initial_end: bool,
    },
    /// The request failed, or the stream brought an error.
    Failed(Failure),
    /// The stream ended or broke.
    Ended,
}

/// Why the server did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The version is too old (HTTP 410).
    Expired,
    /// The server does not know such a request.
    Unsupported,
    /// The server wants to be left alone for so long.
    Busy(Duration),
    Other,
}

/// What to do with the objects gathered so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    /// The initial state is complete: it takes the place of everything known before.
    Replace,
    /// The initial state will be asked for anew: forget the part gathered.
    Discard,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read on from the stream.
    Read,
    Ask(Request),
    Wait(Duration, Request),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub effect: Effect,
    pub next: Next,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Paging { continue_token: String },
    Streaming,
    Watching { version: String },
}

#[derive(Debug)]
pub(crate) struct Machine {
    phase: Phase,
    /// Whether the server is believed to stream the initial state.
    streams: bool,
    broken_streams: u32,
    backoff: Backoff,
}

impl Machine {
    /// The machine and its first request.
    pub(crate) fn new() -> (Self, Request) {
        let backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX).with_jitter(0.5);
        let machine = Self { phase: Phase::Streaming, streams: true, broken_streams: 0, backoff };
        (machine, Request::Stream)
    }

    /// Whether an object that arrives now belongs to the initial state.
    pub(crate) fn is_initial(&self) -> bool {
        !matches!(self.phase, Phase::Watching { .. })
    }

    pub(crate) fn step(&mut self, input: Input) -> Step {
        match (self.phase.clone(), input) {
            (_, Input::Page { continue_token, version }) => self.page(continue_token, version),
            (Phase::Streaming, Input::Bookmark { version, initial_end: true }) => {
                self.backoff.reset();
                self.broken_streams = 0;
                self.phase = Phase::Watching { version };
                Step { effect: Effect::Replace, next: Next::Read }
            }
            (Phase::Watching { .. }, Input::Event { version } | Input::Bookmark { version, .. }) => {
                self.backoff.reset();
                if !version.is_empty() {
                    self.phase = Phase::Watching { version };
                }
                Step { effect: Effect::None, next: Next::Read }
            }
            (_, Input::Event { .. } | Input::Bookmark { .. }) => Step { effect: Effect::None, next: Next::Read },
            (Phase::Watching { version }, Input::Ended) => self.wait(Request::Watch { version }),
            (Phase::Streaming, Input::Ended) => {
                self.broken_streams += 1;
                if self.broken_streams > BROKEN_STREAMS_MAX {
                    self.streams = false;
                }
                self.restart()
            }
            (Phase::Paging { .. }, Input::Ended) => self.restart(),
            (phase, Input::Failed(failure)) => self.failed(phase, failure),
        }
    }

    fn page(&mut self, continue_token: String, version: String) -> Step {
        self.backoff.reset();
        if continue_token.is_empty() {
            self.phase = Phase::Watching { version: version.clone() };
            return Step { effect: Effect::Replace, next: Next::Ask(Request::Watch { version }) };
        }
        self.phase = Phase::Paging { continue_token: continue_token.clone() };
        Step { effect: Effect::None, next: Next::Ask(Request::Page { continue_token }) }
    }

    fn failed(&mut self, phase: Phase, failure: Failure) -> Step {
        match (phase, failure) {
            (Phase::Streaming, Failure::Unsupported) => {
                self.streams = false;
                self.phase = Phase::Paging { continue_token: String::new() };
                let request = Request::Page { continue_token: String::new() };
                Step { effect: Effect::Discard, next: Next::Ask(request) }
            }
            (_, Failure::Expired) | (Phase::Streaming, _) => match failure {
                Failure::Busy(delay) => {
                    let request = self.initial();
                    Step { effect: Effect::Discard, next: Next::Wait(delay, request) }
                }
                _ => self.restart(),
            },
            (Phase::Watching { version }, Failure::Busy(delay)) => {
                Step { effect: Effect::None, next: Next::Wait(delay, Request::Watch { version }) }
            }
            (Phase::Watching { version }, _) => self.wait(Request::Watch { version }),
            (Phase::Paging { continue_token }, Failure::Busy(delay)) => {
                Step { effect: Effect::None, next: Next::Wait(delay, Request::Page { continue_token }) }
            }
            (Phase::Paging { continue_token }, _) => self.wait(Request::Page { continue_token }),
        }
    }

    fn wait(&mut self, request: Request) -> Step {
        Step { effect: Effect::None, next: Next::Wait(self.backoff.step(), request) }
    }

    fn restart(&mut self) -> Step {
        let request = self.initial();
        Step { effect: Effect::Discard, next: Next::Wait(self.backoff.step(), request) }
    }

    fn initial(&mut self) -> Request {
        if self.streams {
            self.phase = Phase::Streaming;
            Request::Stream
        } else {
            self.phase = Phase::Paging { continue_token: String::new() };
            Request::Page { continue_token: String::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced() -> Machine {
        let (mut machine, first) = Machine::new();
        assert_eq!(first, Request::Stream);
        let step = machine.step(Input::Event { version: "3".into() });
        assert_eq!(step, Step { effect: Effect::None, next: Next::Read });
        assert!(machine.is_initial());
        let step = machine.step(Input::Bookmark { version: "7".into(), initial_end: true });
        assert_eq!(step, Step { effect: Effect::Replace, next: Next::Read });
        assert!(!machine.is_initial());
        machine
    }

    fn waits_for(step: &Step, effect: Effect, request: &Request) {
        assert_eq!(step.effect, effect);
        assert!(matches!(&step.next, Next::Wait(delay, r) if r == request && *delay > Duration::ZERO), "{step:?}");
    }

    fn watch(version: &str) -> Request {
        Request::Watch { version: version.into() }
    }

    #[test]
    fn a_disconnect_resumes_from_the_newest_event_or_bookmark() {
        let mut machine = synced();
        machine.step(Input::Event { version: "8".into() });
        waits_for(&machine.step(Input::Ended), Effect::None, &watch("8"));
        machine.step(Input::Bookmark { version: "12".into(), initial_end: false });
        waits_for(&machine.step(Input::Failed(Failure::Other)), Effect::None, &watch("12"));
    }

    #[test]
    fn an_expired_version_starts_over() {
        let mut machine = synced();
        waits_for(&machine.step(Input::Failed(Failure::Expired)), Effect::Discard, &Request::Stream);
        assert!(machine.is_initial());
    }

    #[test]
    fn an_event_that_cannot_be_decoded_does_not_move_the_version() {
        let mut machine = synced();
        machine.step(Input::Event { version: String::new() });
        waits_for(&machine.step(Input::Ended), Effect::None, &watch("7"));
    }

    #[test]
    fn a_server_without_initial_streams_is_asked_for_pages() {
        let (mut machine, _) = Machine::new();
        let step = machine.step(Input::Failed(Failure::Unsupported));
        let first = Request::Page { continue_token: String::new() };
        assert_eq!(step, Step { effect: Effect::Discard, next: Next::Ask(first.clone()) });
        let step = machine.step(Input::Page { continue_token: "c".into(), version: "5".into() });
        assert_eq!(step.next, Next::Ask(Request::Page { continue_token: "c".into() }));
        waits_for(
            &machine.step(Input::Failed(Failure::Other)),
            Effect::None,
            &Request::Page { continue_token: "c".into() },
        );
        let step = machine.step(Input::Page { continue_token: String::new(), version: "5".into() });
        assert_eq!(step, Step { effect: Effect::Replace, next: Next::Ask(watch("5")) });
        waits_for(&machine.step(Input::Failed(Failure::Expired)), Effect::Discard, &first);
    }

    #[test]
    fn an_expired_page_starts_the_list_over() {
        let (mut machine, _) = Machine::new();
        machine.step(Input::Failed(Failure::Unsupported));
        machine.step(Input::Page { continue_token: "c".into(), version: "5".into() });
        let first = Request::Page { continue_token: String::new() };
        waits_for(&machine.step(Input::Failed(Failure::Expired)), Effect::Discard, &first);
    }

    #[test]
    fn streams_that_end_early_again_and_again_give_way_to_lists() {
        let (mut machine, _) = Machine::new();
        waits_for(&machine.step(Input::Ended), Effect::Discard, &Request::Stream);
        waits_for(&machine.step(Input::Ended), Effect::Discard, &Request::Stream);
        let first = Request::Page { continue_token: String::new() };
        waits_for(&machine.step(Input::Ended), Effect::Discard, &first);
    }

    #[test]
    fn a_failed_first_request_is_tried_again_later_and_later() {
        let (mut machine, _) = Machine::new();
        let mut last = Duration::ZERO;
        for _ in 0..4 {
            let step = machine.step(Input::Failed(Failure::Other));
            let Next::Wait(delay, Request::Stream) = step.next else { panic!("{step:?}") };
            assert!(delay > last);
            last = delay;
        }
    }

    #[test]
    fn a_busy_server_says_how_long_to_wait() {
        let mut machine = synced();
        let step = machine.step(Input::Failed(Failure::Busy(Duration::from_secs(9))));
        assert_eq!(step.next, Next::Wait(Duration::from_secs(9), watch("7")));
        machine.step(Input::Failed(Failure::Expired));
        let step = machine.step(Input::Failed(Failure::Busy(Duration::from_secs(9))));
        assert_eq!(step.next, Next::Wait(Duration::from_secs(9), Request::Stream));
    }
}
