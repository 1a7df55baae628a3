//! The object model: names, objects, schemas, codecs, selectors, patches, errors, and the traits that kinds and
//! admission plugins implement.
//!
//! Invariants: nothing here does I/O, knows storage, or names a particular kind. Generic code works over
//! [`schema::Types`]; what differs between kinds is data in a [`kind::KindDef`] and code in its [`kind::Strategy`].

pub mod admission;
pub mod amounts;
pub mod apply;
pub mod cel;
pub mod codec;
pub mod custom;
pub mod definitions;
pub mod field;
pub mod kind;
pub mod meta;
pub mod names;
pub mod netip;
pub mod object;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod services;
pub mod status;
pub mod structural;
pub mod url;
pub mod user;
pub mod validation;
pub mod webhook;

pub use names::{GroupResource, GroupVersion, Gvk, Gvr, ObjectKey};
pub use object::Object;
pub use status::Status;
pub use user::UserInfo;
