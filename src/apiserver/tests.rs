//! Component tests: the whole server over a real store, with a tiny kind of its own.

mod aggregation;
mod consistency;
mod documents;
mod fuzz;
mod harness;
mod identity;
mod limits;
mod lists;
mod metrics;
mod objects;
mod serving;
mod unreadable;
mod watches;
mod webhooks;
